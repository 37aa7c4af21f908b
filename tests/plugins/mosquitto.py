"""A real mosquitto on loopback, and a client to look at it with."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from sparkd.testing import free_port, short_folder

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")


@dataclass
class Mosquitto:
    """A broker that can be killed and started again; it keeps what is retained."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [str(MOSQUITTO), "-c", str(self.folder / "conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 10
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()


@contextmanager
def mosquitto(*, login: tuple[str, str] | None = None) -> Iterator[Mosquitto]:
    if MOSQUITTO is None:
        reason = "needs mosquitto (apt-get install mosquitto)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with short_folder() as folder:
        folder.chmod(0o777)
        broker = Mosquitto(folder, free_port())
        lines = [f"listener {broker.port} 127.0.0.1", "user root", "persistence false"]
        if login:
            passwords = folder / "passwords"
            subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), *login], check=True, capture_output=True)
            lines += ["allow_anonymous false", f"password_file {passwords}"]
        else:
            lines += ["allow_anonymous true"]
        (folder / "conf").write_text("\n".join(lines) + "\n")
        broker.start()
        try:
            yield broker
        finally:
            broker.kill()


@dataclass
class Watcher:
    """A client that keeps all that comes."""

    client: paho.Client
    got: dict[str, list[str]] = field(default_factory=dict)
    news: threading.Condition = field(default_factory=threading.Condition)

    def until(self, wanted: Callable[[dict[str, list[str]]], object], *, limit_s: float = 15.0) -> None:
        with self.news:
            assert self.news.wait_for(lambda: wanted(self.got), timeout=limit_s), self.got

    def last(self, topic: str) -> str:
        return self.got[topic][-1]

    def send(self, topic: str, text: str | bytes, *, retain: bool = False) -> None:
        self.client.publish(topic, text, qos=1, retain=retain).wait_for_publish(10)


@contextmanager
def watcher(port: int, login: tuple[str, str] | None = None) -> Iterator[Watcher]:
    client = paho.Client(CallbackAPIVersion.VERSION2)
    if login:
        client.username_pw_set(*login)
    it = Watcher(client)

    def on_message(_client: object, _data: object, message: paho.MQTTMessage) -> None:
        with it.news:
            it.got.setdefault(message.topic, []).append(message.payload.decode(errors="replace"))
            it.news.notify_all()

    client.on_message = on_message
    client.connect("127.0.0.1", port)
    client.subscribe("#", qos=1)
    client.loop_start()
    try:
        yield it
    finally:
        client.disconnect()
        client.loop_stop()

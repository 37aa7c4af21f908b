"""Servers that take notifications: of HTTP and of mail, real sockets on loopback, which do as they are told."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Inbox:
    """What came."""

    port: int = 0
    answers: list[int] = field(default_factory=list)
    """The status of each answer to come; 200 when there are no more, 0 hangs."""
    retry_after: str = ""
    got: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    """Path, headers and body of what was taken."""
    refused: int = 0
    mails: list[str] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)

    def ids(self) -> list[str]:
        return [headers["Idempotency-Key"] for _, headers, _ in self.got]

    def messages(self) -> list[str]:
        return [body["message"] for _, _, body in self.got]


@contextmanager
def http_inbox(port: int = 0, inbox: Inbox | None = None) -> Iterator[Inbox]:
    """Take notifications over HTTP."""
    it = inbox or Inbox()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = it.answers.pop(0) if it.answers else 200
            if status == 0:
                time.sleep(3)
                return
            if status == 200:
                it.got.append((self.path, dict(self.headers), json.loads(body)))
            else:
                it.refused += 1
            self.send_response(status)
            if status in (301, 302):
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            if it.retry_after:
                self.send_header("Retry-After", it.retry_after)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", port), Handler), it):
        yield it


@contextmanager
def mail_inbox(*, refuse: bool = False) -> Iterator[Inbox]:
    """Take mail, in plain text."""
    it = Inbox()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.say("220 here")
            while line := self.rfile.readline().decode().strip():
                word = line.split(":")[0].split()[0].upper()
                if word == "DATA":
                    self.say("354 go on")
                    lines = []
                    while (text := self.rfile.readline().decode().rstrip("\r\n")) != ".":
                        lines.append(text)
                    it.mails.append("\n".join(lines))
                    self.say("250 taken")
                elif word == "RCPT" and refuse:
                    self.say("550 nobody of that name")
                elif word == "QUIT":
                    self.say("221 bye")
                    return
                else:
                    self.say("250 well")

        def say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler), it):
        yield it


@contextmanager
def serving(server: Any, inbox: Inbox) -> Iterator[None]:
    inbox.port = server.server_address[1]
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

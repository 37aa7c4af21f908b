"""Garbage from sources, in a real daemon: never a wrong mode, always a name for what is wrong."""

from __future__ import annotations

import random
import socketserver
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sparkd.testing import Node
from tests.plugins.notified import Inbox, serving
from tests.system.test_budgets import node
from tests.system.watching import until

GOOD = 'VAR it ups.status "OL"\nVAR it battery.charge "90"\n'
BAD = (
    'VAR it ups.status "OB LB"\nVAR it battery.charge "nan"\n',
    'VAR it ups.status "OL"\nVAR it battery.charge "-40"\n',
    'VAR it ups.status "OL"\nVAR it battery.charge "1e400"\n',
    'VAR it ups.status "FSD OB LB"\n',
    'VAR it ups.status ""\n',
    'VAR it battery.charge "3"\n',
)
CONFIG = """
[plugins.power-monitor]
stale_after_s = 2.0
[plugins.power-monitor.nut.ups]
port = {port}
ups = "it"
interval_s = 0.1
answer_limit_s = 0.5
[plugins.power-monitor.power_supply.bat]
sysfs = "{sysfs}"
interval_s = 0.1
"""


@contextmanager
def liar(seed: int) -> Iterator[Inbox]:
    """A NUT server that now and then says one thing that is not so, or nothing, or half of it."""
    it, chance = Inbox(), random.Random(seed)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            lied = False
            for _ in self.rfile:
                lied = not lied and chance.random() < 0.4  # never twice in a row: that would be news
                said = chance.choice(BAD) if lied else GOOD
                answer = f"BEGIN LIST VAR it\n{said}END LIST VAR it\n".encode()
                if lied and chance.random() < 0.1:
                    self.wfile.write(answer[: chance.randrange(len(answer))])
                    return
                self.wfile.write(answer)

    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler), it):
        yield it


def tree(root: Path, **attributes: str) -> None:
    for path, value in attributes.items():
        supply, _, attribute = path.partition("__")
        folder = root / "class/power_supply" / supply
        folder.mkdir(parents=True, exist_ok=True)
        (folder / attribute).write_text(value)


def source(home: Node, name: str) -> Any:
    return next(one for one in home.call("power.status")["sources"] if one["name"] == name)


@pytest.mark.timeout(120)
def test_no_lie_and_no_silence_changes_the_mode_wrongly(tmp_path: Path) -> None:
    tree(tmp_path, AC__type="Mains", AC__online="1", BAT__type="Battery", BAT__status="Full", BAT__capacity="95")
    with liar(5) as server, node(CONFIG.format(port=server.port, sysfs=tmp_path)) as home:
        home.start()
        until(lambda: home.call("power.status")["mode"], lambda mode: mode == "on-grid", limit_s=20)
        before = home.call("power.status")["since"]
        until(lambda: source(home, "ups"), lambda one: one["readings"] > 150 and one["garbage"] > 20, limit_s=60)
        for text in ("abc", "-5", "999", "", "9" * 400, "\x00\xff"):
            tree(tmp_path, BAT__capacity=text, BAT__status=text or "Full")
            until(lambda: source(home, "bat")["readings"], partial_more(source(home, "bat")["readings"] + 3))
        seen = home.call("power.status")
        assert (seen["mode"], seen["since"]) == ("on-grid", before)
        assert source(home, "ups")["reason"] or source(home, "ups")["garbage"] > 20
        assert "capacity" in source(home, "bat")["reason"]

        for path in sorted((tmp_path / "class/power_supply").rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        until(lambda: source(home, "bat")["state"], lambda state: state == "lost", limit_s=20)
        assert "no power supply" in source(home, "bat")["reason"]


def partial_more(than: int) -> Any:
    return lambda count: count > than

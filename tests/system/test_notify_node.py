"""notify in a real daemon: what happens is told once, also if the server was away and the daemon was killed."""

from __future__ import annotations

import pytest

from sparkd.errors import CallError
from sparkd.testing import Node, free_port
from tests.plugins.notified import Inbox, http_inbox
from tests.system.test_budgets import node
from tests.system.watching import plugin, runs, service, until

CONFIG = """
[plugins.notify]
retry_least_s = 0.1
retry_most_s = 0.2
answer_limit_s = 1.0
[plugins.notify.webhook.hook]
url = "http://127.0.0.1:{port}/"
reach = "{reach}"
"""
FAILS = "raise RuntimeError('boom')"


def channel(home: Node, name: str = "hook") -> dict[str, object]:
    return next(one for one in home.call("notify.status")["channels"] if one["name"] == name)


def send(home: Node, text: str) -> int:
    return int(home.call("notify.send", message=text))


def test_a_service_that_breaks_is_told() -> None:
    with http_inbox() as inbox, node(CONFIG.format(port=inbox.port, reach="local")) as home:
        home.start()
        runs(home, "notify")
        (home.plugins / "it.py").write_text(plugin(FAILS))
        until(lambda: [text for text in inbox.messages() if "broken" in text], bool, limit_s=40)

        assert "it of home is broken" in inbox.messages()[-1]
        assert "boom" in inbox.messages()[-1]


@pytest.mark.timeout(120)
def test_what_was_noted_arrives_once_though_the_server_was_away_and_the_daemon_killed() -> None:
    port = free_port()
    with node(CONFIG.format(port=port, reach="local")) as home:
        home.start()
        runs(home, "notify")
        for number in range(20):
            assert send(home, f"n{number}") == number + 1
        until(lambda: channel(home)["state"], lambda state: state == "waiting")
        assert "channel hook" in service(home, "notify")["reason"]
        home.kill()
        home.start()
        for number in range(20, 40):
            send(home, f"n{number}")

        with http_inbox(port) as inbox:
            until(inbox.messages, lambda got: "n39" in got, limit_s=30)
            assert inbox.messages() == [f"n{number}" for number in range(40)]
            assert len(set(inbox.ids())) == 40
            until(lambda: service(home, "notify")["state"], lambda state: state == "running")


def test_a_server_that_refuses_for_good_holds_nothing_up() -> None:
    inbox = Inbox(answers=[401, 401, 401, 503])
    with http_inbox(inbox=inbox), node(CONFIG.format(port=inbox.port, reach="local")) as home:
        home.start()
        runs(home, "notify")
        send(home, "never")
        send(home, "later")
        until(inbox.messages, bool, limit_s=20)
        assert inbox.messages() == ["later"]
        assert channel(home)["refused"] == 1
        dead = home.call("outbox.dead", service="notify", stream="told")
        assert [one["reason"] for one in dead] == ["HTTP 401"]


def test_what_is_local_goes_by_no_channel_that_is_not() -> None:
    with http_inbox() as inbox, node(CONFIG.format(port=inbox.port, reach="shared")) as home:
        home.start()
        runs(home, "notify")
        with pytest.raises(CallError, match="denied: the message is not told"):
            send(home, "secret plans")
        assert home.call("notify.status")["withheld"] == 1
        assert 'reach = "local"' in until(lambda: service(home, "notify")["remedy"], bool)
        with pytest.raises(CallError, match="no channel is called 'x'"):
            home.call("notify.send", message="m", channels=["x"])
        assert not inbox.got

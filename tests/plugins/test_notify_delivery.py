from __future__ import annotations

from typing import Any

import pytest

from sparkd import Secret
from sparkd_plugins.notify.config import NtfyConfig, SmtpConfig, WebhookConfig
from sparkd_plugins.notify.delivery import DeliveryError, deliver
from sparkd_plugins.notify.rules import Notification
from tests.plugins.notified import http_inbox, mail_inbox

WHAT = Notification(title="Zürich is low", message="battery 12 %", priority="urgent", topic="a.b", repeated=2)
SECRET = Secret("hunter2", "test")


def hand(kind: str, config: Any, limit_s: float = 1.0) -> None:
    deliver(kind, config, WHAT, ident="node-1-7", limit_s=limit_s)


def test_ntfy() -> None:
    with http_inbox() as inbox:
        hand("ntfy", NtfyConfig(url=f"http://127.0.0.1:{inbox.port}/my-house", token=SECRET))
    ((path, headers, body),) = inbox.got

    assert path in ("", "/")
    assert (headers["Authorization"], headers["Idempotency-Key"]) == ("Bearer hunter2", "node-1-7")
    assert (body["topic"], body["title"], body["priority"]) == ("my-house", "Zürich is low", 5)
    assert body["message"] == "battery 12 % (said 2 times more since it was last told)"


def test_a_webhook() -> None:
    with http_inbox() as inbox:
        hand("webhook", WebhookConfig(url=f"http://127.0.0.1:{inbox.port}/hook", headers={"X-Key": SECRET}))
    ((path, headers, body),) = inbox.got

    assert (path, headers["X-Key"]) == ("/hook", "hunter2")
    assert (body["id"], body["topic"], body["repeated"]) == ("node-1-7", "a.b", 2)


@pytest.mark.parametrize(
    ("status", "final", "after_s"),
    [(401, True, None), (404, True, None), (429, False, 2.5), (503, False, 2.5), (302, False, None)],
)
def test_what_a_server_refuses(status: int, *, final: bool, after_s: float | None) -> None:
    with http_inbox() as inbox:
        inbox.answers, inbox.retry_after = [status], "2.5" if after_s else ""
        with pytest.raises(DeliveryError, match=f"HTTP {status}") as refused:
            hand("webhook", WebhookConfig(url=f"http://127.0.0.1:{inbox.port}/", headers={"X-Key": SECRET}))
    assert (refused.value.final, refused.value.after_s) == (final, after_s)
    assert "hunter2" not in str(refused.value)


def test_nobody_there_a_server_that_hangs_and_a_secret_that_cannot_be_sent() -> None:
    with pytest.raises(DeliveryError, match="refused") as gone:
        hand("webhook", WebhookConfig(url="http://127.0.0.1:9/"))
    assert not gone.value.final
    with http_inbox() as inbox:
        inbox.answers = [0]
        with pytest.raises(DeliveryError, match=r"timed out|TimeoutError"):
            hand("webhook", WebhookConfig(url=f"http://127.0.0.1:{inbox.port}/"), limit_s=0.2)
        broken = Secret("hunter2\r\nX-Evil: 1", "test")
        with pytest.raises(DeliveryError) as bad:
            hand("webhook", WebhookConfig(url=f"http://127.0.0.1:{inbox.port}/", headers={"X-Key": broken}))
    assert "hunter2" not in str(bad.value)
    assert not inbox.got


def test_mail() -> None:
    with mail_inbox() as inbox:
        keys = {"host": "127.0.0.1", "port": inbox.port, "sender": "house@example.org", "security": "none"}
        hand("smtp", SmtpConfig(**keys, to=["me@example.org", "you@example.org"]))  # type: ignore[arg-type]
        (mail,) = inbox.mails
        assert "Subject: =?utf-8?" in mail
        assert "Message-ID: <node-1-7@sparkd.invalid>" in mail
        assert "battery 12 %" in mail
        with pytest.raises(DeliveryError, match=r"STARTTLS|not supported"):
            hand("smtp", SmtpConfig(**{**keys, "security": "starttls"}, to=["me@example.org"]))  # type: ignore[arg-type]
    with mail_inbox(refuse=True) as inbox:
        keys["port"] = inbox.port
        with pytest.raises(DeliveryError, match="no recipient is taken") as refused:
            hand("smtp", SmtpConfig(**keys, to=["me@example.org"]))  # type: ignore[arg-type]
        assert refused.value.final

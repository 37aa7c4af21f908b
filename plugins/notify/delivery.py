"""Handing a notification to a server: ntfy, a webhook, mail. Blocks: use it in a thread.

Every try says the same id, so a server that knows it can leave out what it has already.
"""

from __future__ import annotations

import http.client
import json
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import EmailMessage
from typing import Any

from .config import NtfyConfig, SmtpConfig, WebhookConfig
from .rules import Notification

AGAIN = (408, 425, 429)
"""Refusals that mean: later."""
REFUSED_FROM, REFUSED_TO = 400, 500
SMTP_REFUSED = 500
MOST_RETRY_AFTER_S = 3600.0
AGENT = "sparkd-notify"


class DeliveryError(Exception):
    """It was not taken. `final` if another try would not help; `after_s` if the server says how long to wait."""

    def __init__(self, why: str, *, final: bool = False, after_s: float | None = None) -> None:
        super().__init__(why)
        self.final = final
        self.after_s = after_s


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry secrets to another host."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow none."""


_opener = urllib.request.build_opener(_NoRedirects)


def deliver(kind: str, config: Any, what: Notification, *, ident: str, limit_s: float) -> None:
    """Hand *what* to the channel. Raises DeliveryError; no secret is in its message."""
    if kind == "ntfy":
        _ntfy(config, what, ident, limit_s)
    elif kind == "webhook":
        _webhook(config, what, ident, limit_s)
    else:
        _mail(config, what, ident, limit_s)


def text_of(what: Notification) -> str:
    """Return the message, with how often it was said meanwhile."""
    again = f" (said {what.repeated} times more since it was last told)" if what.repeated else ""
    return what.message + again


def _ntfy(config: NtfyConfig, what: Notification, ident: str, limit_s: float) -> None:
    # The form that takes JSON lets titles be any text: headers would have to be Latin-1.
    base, _, topic = config.url.rstrip("/").rpartition("/")
    level = {"min": 1, "low": 2, "default": 3, "high": 4, "urgent": 5}[what.priority]
    body = {"topic": topic, "title": what.title, "message": text_of(what), "priority": level}
    secret = {} if config.token is None else {"Authorization": f"Bearer {config.token.reveal()}"}
    _post(base, body, {**secret, "Idempotency-Key": ident}, limit_s)


def _webhook(config: WebhookConfig, what: Notification, ident: str, limit_s: float) -> None:
    body = {
        "id": ident,
        "title": what.title,
        "message": text_of(what),
        "priority": what.priority,
        "topic": what.topic,
        "repeated": what.repeated,
    }
    secret = {name: value.reveal() for name, value in config.headers.items()}
    _post(config.url, body, {**secret, "Idempotency-Key": ident}, limit_s)


def _post(url: str, body: Mapping[str, object], headers: Mapping[str, str], limit_s: float) -> None:
    request = urllib.request.Request(  # noqa: S310 - the config allows http and https only
        url,
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "User-Agent": AGENT, **headers},
        method="POST",
    )
    try:
        with _opener.open(request, timeout=limit_s) as answer:
            answer.read(1024)
    except urllib.error.HTTPError as error:
        with error:
            final = REFUSED_FROM <= error.code < REFUSED_TO and error.code not in AGAIN
            raise DeliveryError(f"HTTP {error.code}", final=final, after_s=_seconds(error.headers)) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise DeliveryError(f"{type(error).__name__}: {getattr(reason, 'strerror', None) or reason}"[:200]) from None
    except ValueError:  # a secret with a line break in it; the message would show it
        raise DeliveryError("a header that cannot be sent: look at the secret", final=True) from None


def _seconds(headers: Any) -> float | None:
    try:
        return min(max(float(headers.get("Retry-After", "")), 0.0), MOST_RETRY_AFTER_S)
    except ValueError:
        return None


def _mail(config: SmtpConfig, what: Notification, ident: str, limit_s: float) -> None:
    mail = EmailMessage()
    mail["From"], mail["To"] = config.sender, ", ".join(config.to)
    mail["Subject"] = " ".join(what.title.split()) or "sparkd"
    mail["Message-ID"] = f"<{ident}@sparkd.invalid>"
    mail["X-Priority"] = {"min": "5", "low": "4", "default": "3", "high": "2", "urgent": "1"}[what.priority]
    mail.set_content(text_of(what))
    try:
        with _server(config, limit_s) as server:
            if config.password is not None:
                server.login(config.user, config.password.reveal())
            server.send_message(mail)
    except smtplib.SMTPAuthenticationError as error:
        raise DeliveryError(f"SMTP {error.smtp_code}: it does not take user and password") from None
    except smtplib.SMTPResponseException as error:
        raise DeliveryError(f"SMTP {error.smtp_code}", final=error.smtp_code >= SMTP_REFUSED) from None
    except smtplib.SMTPRecipientsRefused as error:
        final = all(code >= SMTP_REFUSED for code, _ in error.recipients.values())
        raise DeliveryError("SMTP: no recipient is taken", final=final) from None
    except (smtplib.SMTPException, OSError) as error:
        raise DeliveryError(f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"[:200]) from None


def _server(config: SmtpConfig, limit_s: float) -> smtplib.SMTP:
    checked = ssl.create_default_context()
    if config.security == "tls":
        return smtplib.SMTP_SSL(config.host, config.port, timeout=limit_s, context=checked)
    server = smtplib.SMTP(config.host, config.port, timeout=limit_s)
    if config.security == "starttls":
        try:
            server.starttls(context=checked)
        except BaseException:
            server.close()
            raise
    return server

"""One GET, over HTTP or HTTPS, that follows nobody elsewhere: who is asked gets a login, others must not."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio.to_thread

from sparkd import DeviceError, Secret

if TYPE_CHECKING:
    from http.client import HTTPConnection

MAX_BODY = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was answered."""

    status: int
    body: str
    retry_after_s: float = 0.0
    """What the server asks for; 0 if it does not."""


async def get(url: str, *, limit_s: float, login: Secret | None = None, ca: Path | None = None) -> Answer:
    """Ask *url*, with USER:PASSWORD if there is a *login*. Raises DeviceError; no message has the login in it."""
    work = partial(_get, url, limit_s=limit_s, login=login, ca=ca)
    return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)


def _get(url: str, *, limit_s: float, login: Secret | None, ca: Path | None) -> Answer:
    from http.client import HTTPException  # noqa: PLC0415 - who keeps no name loads no HTTP

    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {"User-Agent": "sparkd-vpn-watchdog/1", "Connection": "close"}
    if login is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(login.reveal().encode()).decode()
    connection = _connection(parts.scheme, parts.hostname or "", parts.port, limit_s, ca)
    try:
        connection.request("GET", target, headers=headers)
        answer = connection.getresponse()
        body = answer.read(MAX_BODY).decode("utf-8", "replace")
        return Answer(status=answer.status, body=body, retry_after_s=_seconds(answer.getheader("Retry-After", "")))
    except (OSError, HTTPException, ValueError) as error:
        why = (
            str(error) if isinstance(error, OSError) else type(error).__name__
        )  # the other two may quote what was sent
        raise DeviceError(
            f"{parts.hostname} cannot be asked: {why}", remedy="look at the URL and the network"
        ) from None
    finally:
        connection.close()


def _connection(scheme: str, host: str, port: int | None, limit_s: float, ca: Path | None) -> HTTPConnection:
    from http.client import HTTPConnection, HTTPSConnection  # noqa: PLC0415 - likewise

    if scheme == "http":
        return HTTPConnection(host, port, timeout=limit_s)
    import ssl  # noqa: PLC0415 - likewise

    try:
        trust = ssl.create_default_context(cafile=str(ca) if ca else None)
    except OSError as error:
        raise DeviceError(f"{ca}: {error.strerror or 'no certificates in it'}", remedy="look at `ca`") from None
    return HTTPSConnection(host, port, timeout=limit_s, context=trust)


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0.0  # noqa: PLR2004 - eleven days

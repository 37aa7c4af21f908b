"""A DNS server of a test's own on loopback, and the key that may update its zone."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import dns.name
import dns.tsig

from sparkd import Secret
from tests.netlab.servers import Names

KEY = base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
KEY_NAME = dns.name.from_text("home-key")


def secret(text: str) -> Secret:
    """Return a secret as the config's loader would make it."""
    return Secret(text, "file /etc/sparkd/it")


def names(*, key: str = KEY) -> Names:
    """Return a server of the zone `lab.`, which the key may update."""
    return Names(
        addresses={"hub.lab.": "80.1.1.10"}, keys={KEY_NAME: dns.tsig.Key(KEY_NAME, key, dns.tsig.HMAC_SHA256)}
    )


@asynccontextmanager
async def serving(held: Names) -> AsyncIterator[int]:
    """Serve on 127.0.0.1; give the port."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: held, local_addr=("127.0.0.1", 0))
    try:
        yield transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


def closed_file(folder: Path, text: str) -> Path:
    """Write a secret's file as an operator should."""
    file = folder / "secret"
    file.write_text(text)
    file.chmod(0o600)
    return file

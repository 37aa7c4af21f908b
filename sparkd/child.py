"""A child of the zygote that runs one service: load the plugin, check its config, host it, say how it ended."""

from __future__ import annotations

import contextlib
import os
import sys
from functools import partial
from typing import Any

import anyio
import msgspec

from sparkd.bus import finish
from sparkd.config import decode_table
from sparkd.host import Place, run_host
from sparkd.log import StructuredLog, configure
from sparkd.registry import BrokenPluginError, PluginSource, load_service
from sparkd.service import Service
from sparkd.supervisor.failure import end_of, innermost, tidy
from sparkd.supervisor.policy import End, EndKind

SERVICE = "service"
"""The kind of child; the zygote is given `service_main` under this name."""
FAILED = 1


class ChildSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All that a child must know, as data."""

    source: PluginSource
    service: str
    place: Place
    log_level: str = "info"
    table: dict[str, Any] = {}
    origin: str = ""
    origins: dict[str, str] = {}
    """The file each key of the table came from, for messages."""


_decode_spec = msgspec.msgpack.Decoder(ChildSpec).decode
_decode_end = msgspec.msgpack.Decoder(End).decode


def service_main(spec_bytes: bytes, result_fd: int) -> int:
    """Be the child that *spec_bytes* describes; return its exit code, with the reason written to *result_fd*."""
    spec = _decode_spec(spec_bytes)
    configure(spec.log_level)
    try:
        service = load_service(spec.source, spec.service)
        stopped = run_loop(service, spec)
        end = End(kind=EndKind.STOPPED if stopped else EndKind.FINISHED)
    except BaseException as error:  # noqa: BLE001 - a plugin may raise anything, a cancellation of its own making too
        end = why(error, spec)
        # What is missing or misconfigured is told by its sentence; a traceback would only frighten.
        trace = innermost(error) if end.kind is EndKind.FAILED else None
        StructuredLog(spec.service).error("service failed", why=end.reason, exc_info=trace)
    _write(result_fd, msgspec.msgpack.encode(end))
    return 0 if end.kind in (EndKind.STOPPED, EndKind.FINISHED) else FAILED


def run_loop(service: Service[Any], spec: ChildSpec) -> bool:
    """Run the service on an event loop of its own; return whether it was stopped."""
    where = f"plugins.{spec.source.name}"
    config = decode_table(service.config, spec.table, where=where, origins=spec.origins, file=spec.origin)
    try:
        return anyio.run(
            partial(run_host, service, config, spec.place, home=spec.source.home), backend_options={"use_uvloop": True}
        )
    finally:
        finish()


def why(error: BaseException, spec: ChildSpec) -> End:
    """Return the end that *error* makes, with the plugin's own line if it has one."""
    if isinstance(error, BrokenPluginError):
        return End(kind=EndKind.FAILED, reason=str(error), remedy="restart it after mending the plugin")
    return end_of(error, home=spec.source.home)


def decode_end(content: bytes) -> End | None:
    """Return the end a child wrote, or None if it wrote none that can be read."""
    try:
        return tidy(_decode_end(content)) if content else None
    except msgspec.MsgspecError:
        return None


def _write(descriptor: int, content: bytes) -> None:
    sys.stderr.flush()
    with contextlib.suppress(BrokenPipeError):
        while content:
            content = content[os.write(descriptor, content) :]

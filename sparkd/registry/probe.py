"""Read one plugin in a throw-away child: what the child does, and what the core makes of how that went."""

from __future__ import annotations

import faulthandler
import os
import resource
from collections import deque
from collections.abc import Sequence

import anyio
import msgspec

from sparkd.codec import MALFORMED
from sparkd.registry import faults
from sparkd.registry.load import load_offer
from sparkd.registry.manifests import build_manifests
from sparkd.registry.received import fault_of
from sparkd.registry.source import Failure, FailureKind, Manifests, PluginSource, ProbeResult
from sparkd.service import Manifest
from sparkd.zygote import Child, Exit, Zygote

PROBE = "probe"
"""The kind of child; `Zygote.fork` is given `probe_main` under this name."""
LIMIT_S = 10.0
MEMORY_BYTES = 1 << 30
"""Address space a plugin may take while it is imported; services themselves have no such limit."""
GRACE_S = 1.0
"""After the limit the child says where it hangs and ends itself; if even that fails it is killed this much later."""
OUTPUT_LINES = 20

_HANG = b"Timeout ("  # how a dump by faulthandler begins, for its timer and for a fatal signal
_FATAL = b"Fatal Python error"


class _ProbeOrder(msgspec.Struct, frozen=True):
    source: PluginSource
    limit_s: float


_decode_answer = msgspec.msgpack.Decoder(Manifests | Failure).decode
_decode_order = msgspec.msgpack.Decoder(_ProbeOrder).decode


async def probe(
    zygote: Zygote, source: PluginSource, *, limit_s: float = LIMIT_S, memory_bytes: int = MEMORY_BYTES
) -> ProbeResult:
    """Import *source* in a child, and return its manifests or why there are none. Nothing it does is raised here."""
    output: deque[str] = deque(maxlen=OUTPUT_LINES)
    try:
        child = await zygote.spawn(
            PROBE,
            msgspec.msgpack.encode(_ProbeOrder(source, limit_s)),
            name=f"?{source.name}",
            memory_bytes=memory_bytes,
            on_line=output.append,
        )
    except OSError as error:
        failure = Failure(kind=FailureKind.UNAVAILABLE, message=f"no process to read it in: {error}")
        return ProbeResult(source=source, failure=failure)
    try:
        how = await _end(child, limit_s)
        answer = await child.result()
    except ValueError as error:
        verdict: tuple[Manifest, ...] | Failure = Failure(kind=FailureKind.INVALID, message=str(error))
    else:
        verdict = judge(how, answer, source=source, limit_s=limit_s, output=output)
    finally:
        child.kill()
    if isinstance(verdict, Failure):
        return ProbeResult(source=source, failure=verdict)
    return ProbeResult(source=source, manifests=verdict)


async def _end(child: Child, limit_s: float) -> Exit | None:
    """Return how *child* ended, or None if it had to be killed."""
    with anyio.move_on_after(limit_s + GRACE_S):
        return await child.wait()
    child.kill()
    await child.wait()
    return None


def judge(
    how: Exit | None, answer: bytes, *, source: PluginSource, limit_s: float, output: Sequence[str] | deque[str]
) -> tuple[Manifest, ...] | Failure:
    """Return what a probe says that ended as *how* (None: killed at the limit) and left *answer* in the result pipe."""
    home = source.home
    dump = answer.decode(errors="replace") if answer.startswith((_HANG, _FATAL)) else ""
    if how is None or answer.startswith(_HANG):
        return faults.failure_of_hang(limit_s, dump=dump, home=home)
    if not dump:
        try:
            decoded: Manifests | Failure = _decode_answer(answer)
        except MALFORMED:  # there is none, or the plugin wrote into its pipe
            pass
        else:
            if isinstance(decoded, Failure):
                return decoded
            fault = fault_of(decoded.services, source.name)
            if not fault:
                return decoded.services
            message = f"it wrote into its process's answer: {fault}"
            return Failure(kind=FailureKind.INVALID, message=message, file=source.path)
    by_signal = how.signal is not None
    return faults.failure_of_end(str(how), dump=dump, home=home, output=tuple(output), by_signal=by_signal)


def probe_main(spec: bytes, result_fd: int) -> int:
    """Be the throw-away child."""
    order = _decode_order(spec)
    reader = os.getpid()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    # Both write to the result pipe, which holds nothing else yet: what a plugin prints cannot get in between.
    faulthandler.enable(result_fd)
    faulthandler.dump_traceback_later(order.limit_s, exit=True, file=result_fd)
    answer = msgspec.msgpack.encode(_read(order.source))
    if os.getpid() != reader:  # the plugin forked while it was imported, and this is the copy
        return 0
    faulthandler.cancel_dump_traceback_later()
    with open(result_fd, "wb", closefd=False) as pipe:
        pipe.write(answer)
    return 0


def _read(source: PluginSource) -> Manifests | Failure:
    try:
        return Manifests(build_manifests(source.name, load_offer(source)))
    except BaseException as error:  # noqa: BLE001 - a plugin may raise anything while it is imported
        if isinstance(error, MemoryError):  # room to say so: the limit was a soft one
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        return faults.failure_of(error, source.home)

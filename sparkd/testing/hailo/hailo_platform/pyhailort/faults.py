"""The library's exceptions, and the wrapper that turns a status into one of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ._pyhailort import STATUS, HailoRTStatusException

# ruff: noqa: N818 - the real names


class HailoRTException(Exception):
    """What the library's errors have in common."""


class HailoRTFirmwareControlFailedException(HailoRTException):
    """Status 18."""


class HailoRTInvalidFrameException(HailoRTException):
    """Status 25."""


class HailoRTUnsupportedOpcodeException(HailoRTException):
    """Status 48."""


class HailoRTTimeout(HailoRTException):
    """Status 4."""


class HailoRTStreamAborted(HailoRTException):
    """Status 63."""


class HailoRTStreamAbortedByUser(HailoRTException):
    """Somebody aborted the stream on purpose."""


class HailoRTInvalidOperationException(HailoRTException):
    """Status 6."""


class HailoRTInvalidArgumentException(HailoRTException):
    """Status 2."""


class HailoRTNotFoundException(HailoRTException):
    """Status 61."""


class HailoRTInvalidHEFException(HailoRTException):
    """Status 26."""


class HailoRTHEFNotCompatibleWithDevice(HailoRTException):
    """Status 93."""


class HailoRTEthException(HailoRTException):
    """Status 19."""


class HailoRTDriverOperationFailedException(HailoRTException):
    """Status 36."""


HailoRTPCIeDriverException = HailoRTDriverOperationFailedException


class HailoRTNetworkGroupNotActivatedException(HailoRTException):
    """Status 69."""


class HailoCommunicationClosedException(HailoRTException):
    """Status 62."""


OF_STATUS: dict[int, type[HailoRTException]] = {
    2: HailoRTInvalidArgumentException,
    4: HailoRTTimeout,
    6: HailoRTInvalidOperationException,
    18: HailoRTFirmwareControlFailedException,
    19: HailoRTEthException,
    25: HailoRTInvalidFrameException,
    26: HailoRTInvalidHEFException,
    36: HailoRTDriverOperationFailedException,
    48: HailoRTUnsupportedOpcodeException,
    61: HailoRTNotFoundException,
    62: HailoCommunicationClosedException,
    63: HailoRTStreamAborted,
    69: HailoRTNetworkGroupNotActivatedException,
    93: HailoRTHEFNotCompatibleWithDevice,
}


def exception_of(code: int) -> HailoRTException:
    """Return the exception of a status; one without a class of its own says its number and name."""
    kind = OF_STATUS.get(code)
    name = STATUS.get(code, "unknown")
    if kind is None:
        return HailoRTException(f"libhailort failed with error: {code} ({name})")
    return kind(f"{name.removeprefix('HAILO_').lower().replace('_', ' ')}. See hailort.log for more information")


@contextmanager
def wrapped() -> Iterator[None]:
    """Turn the raw exception into the library's."""
    try:
        yield
    except HailoRTStatusException as raw:
        raise exception_of(int(raw.args[0])) from raw

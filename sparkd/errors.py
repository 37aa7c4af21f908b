"""Every error that crosses a module boundary, named by whose fault it is.

The operator's (`ConfigError`), our own (`LocalMessageError`), the peer's (`RemoteMessageError`), the hardware's
(`DeviceError`), the disk's (`StorageError`), or the answer to a call (`CallError`). Elsewhere builtins serve.
Messages say what, where, what was got, and what to try.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class SparkdError(Exception):
    """What every error below is; never raised itself."""


class ConfigError(SparkdError):
    """The operator's configuration cannot be used. Carries every problem found, not only the first."""

    def __init__(self, *problems: str) -> None:
        """Keep *problems*, one full sentence each: file, table, key, what was got, what to try."""
        super().__init__("\n".join(problems))
        self.problems = problems


class LocalMessageError(SparkdError):
    """This side tried to send what the contract forbids: our bug."""


class RemoteMessageError(SparkdError):
    """A peer sent what the contract forbids. It must never end the daemon."""


class DeviceError(SparkdError):
    """Hardware is missing, busy or broken."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        """Say what happened in *message* and what an operator can do in *remedy*."""
        super().__init__(message)
        self.remedy = remedy


class StorageError(SparkdError):
    """The disk refused: full, read-only or damaged. Nothing that was acknowledged is lost by it."""


class CallErrorKind(StrEnum):
    """Why a call has no result. The JSON-RPC code of each stands in `sparkd.rpc`."""

    UNKNOWN_METHOD = "unknown-method"
    INVALID_PARAMS = "invalid-params"
    UNAVAILABLE = "unavailable"
    DEADLINE = "deadline"
    DENIED = "denied"
    CANCELLED = "cancelled"
    FAILED = "failed"  # the interface's own error: `data["error"]` names it


class CallError(SparkdError):
    """A call was answered with an error instead of a result; raised at the caller, and by handlers to answer so.

    `data` goes to the peer: JSON-like values only, never a secret. For `UNAVAILABLE` it holds `remedy`, for
    `INVALID_PARAMS` it holds `field`, for `DENIED` it holds `rule`.
    """

    def __init__(self, kind: CallErrorKind, message: str, **data: Any) -> None:
        """Say why in *message*; *data* is what a program needs to act on it."""
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.data = data

    def __str__(self) -> str:
        remedy = self.data.get("remedy")
        return f"{self.kind}: {self.message}" + (f" ({remedy})" if remedy else "")

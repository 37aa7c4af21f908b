"""The program of a service that is a systemd unit of its own: learn from the credential what to be, and be it.

Machinery layer. It is run by its path, in isolated mode, by whichever interpreter root's config names, so until
`_find_core` has run only the standard library is there. An interpreter of a vendor's world (`/usr/bin/python3`, for a
package that is only there) lends its own packages, and the core's come from the daemon's folder: exactly those that
the core needs, each before the system's of the same name, and all others after the system's. So a vendor's numpy wins
over the daemon's, and the daemon's anyio over the system's. A virtual environment that has sparkd of its own uses that.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib.abc
import importlib.machinery
import importlib.metadata
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Never

CORE_PACKAGES = frozenset(
    {
        "anyio",
        "asyncinotify",
        "idna",
        "msgpack",
        "msgspec",
        "pluggy",
        "prometheus_client",
        "sdnotify",
        "sniffio",
        "sparkd",
        "typing_extensions",
        "uvloop",
        "zmq",
    }
)
"""What the core imports that is not of the standard library; a test holds it true."""
EX_UNUSABLE = 78
"""The interpreter cannot run the core's packages, or the unit was not told what to be (EX_CONFIG of sysexits.h)."""
CREDENTIAL = "sparkd-spec"


class CoreFinder(importlib.abc.MetaPathFinder):
    """Finds the core's own packages in the daemon's folders, before anything else is asked."""

    def __init__(self, folders: list[str]) -> None:
        """Look in *folders*."""
        self._folders = folders

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Return where a package of the core is; None for any other, and for what is within a package."""
        if path is not None or fullname not in CORE_PACKAGES:
            return None
        return importlib.machinery.PathFinder.find_spec(fullname, self._folders, target)


def main(arguments: list[str] | None = None) -> int:
    """Be the service; return the exit code."""
    options = _options(arguments)
    result = _connect(options.output)
    try:
        service_main = _find_core(options.packages.split(":"), options.version)
        spec = (Path(os.environ["CREDENTIALS_DIRECTORY"]) / CREDENTIAL).read_bytes()
    except (ImportError, OSError, KeyError) as error:
        print(f"this unit cannot begin: {error}", file=sys.stderr, flush=True)  # noqa: T201 - before there is a log
        return EX_UNUSABLE
    return service_main(_at_home(spec), result)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A service of sparkd, as a unit. Started by sparkd-priv.")
    parser.add_argument("--packages", required=True, help="folders that hold the core's packages, joined by colons")
    parser.add_argument("--output", required=True, help="the socket that takes what this process writes")
    parser.add_argument("--version", required=True, help="the daemon's version")
    return parser.parse_args(arguments)


def _connect(path: str) -> int:
    """Let stdout and stderr go to the core; return the descriptor that takes how the service ended.

    The core knows them by their order, and believes them because this process is the unit's.
    """
    output, result = (socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(2))
    for one in (output, result):
        one.connect(path)
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    output.close()
    # Opened anew: what they were made for at start, a file perhaps, has just lost its descriptor.
    sys.stdout = sys.__stdout__ = _open(1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _open(2)  # type: ignore[misc]
    faulthandler.enable(sys.stderr)
    faulthandler.register(signal.SIGUSR2, file=sys.stderr, all_threads=True, chain=False)
    return result.detach()


def _open(descriptor: int) -> Any:
    return open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _find_core(folders: list[str], version: str) -> Callable[[bytes, int], int]:
    """Make the core's packages importable; return what runs a service. Raises ImportError if they cannot be used."""
    own = importlib.machinery.PathFinder.find_spec("sparkd")
    if own is None or _is_beneath(own.origin, folders):
        sys.meta_path.insert(0, CoreFinder(folders))
        sys.path += [folder for folder in folders if folder not in sys.path]
    found = installed_version()
    if version != found:
        raise ImportError(f"{sys.executable} has sparkd {found}, the daemon is {version}: install the same there")
    try:
        from sparkd.child import service_main  # noqa: PLC0415 - not to be found before
    except ImportError as error:  # what is compiled is for one version of Python
        kind = f"{sys.implementation.cache_tag} ({sys.executable})"
        remedy = f"{sys.executable} -m venv --system-site-packages DIR, install sparkd there, set python to its python"
        raise ImportError(f"the daemon's packages are not for {kind}: {error}; try: {remedy}") from None
    return service_main


def installed_version() -> str:
    """Return the version of sparkd that this interpreter has."""
    try:
        return importlib.metadata.version("sparkd")
    except importlib.metadata.PackageNotFoundError:  # run from a folder that was never installed
        return "0"


def _is_beneath(origin: str | None, folders: list[str]) -> bool:
    return origin is not None and any(Path(origin).is_relative_to(folder) for folder in folders)


def _at_home(spec: bytes) -> bytes:
    """Return *spec* with the state folder that systemd made for this unit."""
    import msgspec  # noqa: PLC0415 - not to be found before

    plain = msgspec.msgpack.decode(spec)
    plain["place"]["state_dir"] = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return msgspec.msgpack.encode(plain)


def _leave(code: int) -> Never:
    """End at once: what a plugin's threads still do must not hold the unit."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    _leave(main())

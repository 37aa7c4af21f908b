"""What plugins may do wrong, each done for real in a probe."""

from __future__ import annotations

import textwrap
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from sparkd.registry import FailureKind, PluginSource, ProbeResult, SourceKind, new_plugin, probe, probe_main
from sparkd.registry.probe import judge
from sparkd.zygote import Exit, Zygote

pytestmark = pytest.mark.anyio

HEAD = """
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from sparkd import Route, Service, hookimpl, event, interface, reads, Durability, NoConfig, Vision

async def run(ctx, *, task_status):
    task_status.started()
"""
HEAD_LINES = HEAD.count("\n")


@pytest.fixture
async def zygote(anyio_backend: str) -> AsyncIterator[Zygote]:
    async with Zygote.fork({"probe": probe_main}).attach() as attached:
        yield attached


def drop_in(folder: Path, source: str, *, name: str = "bad") -> PluginSource:
    path = folder / f"{name}.py"
    path.write_text(textwrap.dedent(source))
    return PluginSource(name=name, kind=SourceKind.DROP_IN, path=str(path))


def services(expression: str) -> str:
    return HEAD + f"@hookimpl\ndef sparkd_services():\n    return {expression}\n"


@dataclass(frozen=True)
class Bad:
    name: str
    source: str
    kind: FailureKind
    line: int
    message: str


BAD: Sequence[Bad] = [
    Bad("raises", "def f():\n    raise ValueError('no sensor')\nf()\n", FailureKind.IMPORT, 2, "ValueError: no sensor"),
    Bad("raises below", "import json\njson.loads('{')\n", FailureKind.IMPORT, 2, "JSONDecodeError: Expecting property"),
    Bad(
        "missing module",
        "\nimport hailo_platform_xyz\n",
        FailureKind.MISSING,
        2,
        "No module named 'hailo_platform_xyz'",
    ),
    Bad("syntax error", "x = 1\ndef f(:\n", FailureKind.SYNTAX, 2, "SyntaxError: invalid syntax"),
    Bad("indentation", "def f():\nreturn 1\n", FailureKind.SYNTAX, 2, "IndentationError: expected an indented block"),
    Bad("null byte", "x = '\0'", FailureKind.SYNTAX, 0, "source code string cannot contain null bytes"),
    Bad("sys.exit", "import sys\nsys.exit(3)\n", FailureKind.EXITED, 2, "it calls sys.exit(3) while it is imported"),
    Bad("keyboard interrupt", "raise KeyboardInterrupt\n", FailureKind.IMPORT, 1, "KeyboardInterrupt"),
    Bad(
        "os._exit",
        "import os\nprint('bye', flush=True)\nos._exit(0)\n",
        FailureKind.EXITED,
        0,
        "exit code 0, no traceback",
    ),
    Bad("segfault", "import ctypes\nctypes.string_at(0)\n", FailureKind.CRASHED, 2, "killed by SIGSEGV"),
    Bad("abort", "import os\n\nos.abort()\n", FailureKind.CRASHED, 3, "killed by SIGABRT"),
    Bad("kills itself", "import os\nos.kill(0, 9)\n", FailureKind.CRASHED, 0, "killed by SIGKILL"),
    Bad(
        "hangs",
        "import time\ndef f():\n    time.sleep(1000)\nf()\n",
        FailureKind.HUNG,
        3,
        "still being imported after 1 s",
    ),
    Bad("busy loop", "\nwhile True: pass\n", FailureKind.HUNG, 2, "still being imported after 1 s"),
    Bad("memory", "x = []\nwhile True:\n    x.append(bytes(1 << 24))\n", FailureKind.MEMORY, 3, "more memory"),
    Bad("closes all", "import os\nos.closerange(0, 100)\n", FailureKind.EXITED, 0, "no traceback"),
    Bad("writes result", "import os\nos.write(3, b'junk')\n", FailureKind.EXITED, 0, "no traceback"),
    Bad("no hook", "x = 1\n", FailureKind.INVALID, 0, "no hook sparkd_services"),
    Bad(
        "misspelt",
        "from sparkd import hookimpl\n@hookimpl\ndef sparkd_service():\n    return []\n",
        FailureKind.HOOK,
        2,
        "unknown hook 'sparkd_service'. Did you mean 'sparkd_services'?",
    ),
    Bad(
        "unmarked",
        "\ndef sparkd_services():\n    return []\n",
        FailureKind.HOOK,
        2,
        "sparkd_services is not marked as a hook",
    ),
    Bad(
        "async hook",
        "from sparkd import hookimpl\n@hookimpl\nasync def sparkd_services():\n    return []\n",
        FailureKind.HOOK,
        2,
        "hook sparkd_services is asynchronous",
    ),
    Bad(
        "hook argument",
        "from sparkd import hookimpl\n@hookimpl\ndef sparkd_services(config):\n    return []\n",
        FailureKind.HOOK,
        0,
        "Argument(s) {'config'} are declared in the hookimpl but can not be found in the hookspec",
    ),
    Bad("hook raises", services("1 / 0"), FailureKind.IMPORT, HEAD_LINES + 3, "ZeroDivisionError"),
    Bad("returns None", services("None"), FailureKind.INVALID, HEAD_LINES + 1, "hook sparkd_services returned nothing"),
    Bad("returns a dict", services("{}"), FailureKind.INVALID, HEAD_LINES + 1, "returned dict; a list expected"),
    Bad("returns strings", services("['x']"), FailureKind.INVALID, HEAD_LINES + 1, "a list with 'x'; only Service"),
    Bad(
        "bad name",
        services("[Service(name='A_b', config=NoConfig, run=run)]"),
        FailureKind.IMPORT,
        HEAD_LINES + 3,
        "service name 'A_b'",
    ),
    Bad(
        "reserved",
        services("[Service(name='core', config=NoConfig, run=run)]"),
        FailureKind.INVALID,
        HEAD_LINES + 1,
        "belongs to the daemon",
    ),
    Bad(
        "twice",
        services("[Service(name='a', config=NoConfig, run=run)] * 2"),
        FailureKind.INVALID,
        HEAD_LINES + 1,
        "'a' is offered 2 times",
    ),
    Bad(
        "config",
        services("[Service(name='a', config=dict, run=run)]"),
        FailureKind.INVALID,
        HEAD_LINES + 1,
        "a dataclass expected",
    ),
    Bad(
        "run",
        services("[Service(name='a', config=NoConfig, run=lambda ctx: 1)]"),
        FailureKind.INVALID,
        HEAD_LINES + 1,
        "an async function expected",
    ),
    Bad(
        "run's arguments",
        HEAD + "async def other(ctx):\n    pass\n" + services("[Service(name='a', config=NoConfig, run=other)]"),
        FailureKind.INVALID,
        HEAD_LINES + 1,
        "run does not take (ctx, *, task_status)",
    ),
    Bad(
        "topic",
        services("[Service(name='a', config=NoConfig, run=run, publishes=('Not A Topic',))]"),
        FailureKind.INVALID,
        HEAD_LINES + 1,
        "topic 'Not A Topic'",
    ),
    Bad(
        "no event",
        services("[Service(name='a', config=NoConfig, run=run, publishes=(int,))]"),
        FailureKind.INVALID,
        HEAD_LINES + 1,
        "int is not an event",
    ),
    Bad(
        "no tuple",
        services("[Service(name='a', config=NoConfig, run=run, publishes='edge.x')]"),
        FailureKind.INVALID,
        HEAD_LINES + 1,
        "a tuple expected",
    ),
    Bad(
        "interface",
        services("[Service(name='a', config=NoConfig, run=run, serves=(int,))]"),
        FailureKind.INVALID,
        HEAD_LINES + 1,
        "int is not an interface",
    ),
    Bad(
        "need",
        services("[Service(name='a', config=NoConfig, run=run, needs=('hailo',))]"),
        FailureKind.INVALID,
        HEAD_LINES + 1,
        "need 'hailo'",
    ),
    Bad(
        "isolation",
        services("[Service(name='a', config=NoConfig, run=run, isolation='proc')]"),
        FailureKind.INVALID,
        HEAD_LINES + 1,
        "choices: process, inline, unit",
    ),
    Bad(
        "no schema",
        HEAD
        + "@dataclass\nclass C:\n    x: object.__class__ = int\n"
        + services("[Service(name='a', config=C, run=run)]").replace(HEAD, ""),
        FailureKind.INVALID,
        HEAD_LINES + 4,
        "config field 'x' has no schema",
    ),
    Bad(
        "defaults",
        HEAD
        + "@dataclass\nclass C:\n    x: int = 0\n    def __post_init__(self):\n        raise ValueError('not 0')\n"
        + services("[Service(name='a', config=C, run=run)]").replace(HEAD, ""),
        FailureKind.INVALID,
        HEAD_LINES + 6,
        "the defaults of C are refused by itself: not 0",
    ),
    Bad(
        "route",
        services("[Service(name='a', config=NoConfig, run=run, serves=(Vision,))]")
        + "@hookimpl\ndef sparkd_routes():\n    return [Route(verb='GET', path='/x', method='vision.inver')]\n",
        FailureKind.INVALID,
        HEAD_LINES + 1,
        "interface vision has no method 'inver'",
    ),
    Bad(
        "verb",
        services("[Service(name='a', config=NoConfig, run=run)]")
        + "@hookimpl\ndef sparkd_routes():\n    return [Route(verb='FETCH', path='/x', method='vision.infer')]\n",
        FailureKind.INVALID,
        HEAD_LINES + 1,
        "unknown verb",
    ),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
async def test_a_bad_plugin_is_a_failure_that_says_what_and_where(zygote: Zygote, tmp_path: Path, bad: Bad) -> None:
    source = drop_in(tmp_path, bad.source)
    limit_s = 1 if bad.kind is FailureKind.HUNG else 10
    with anyio.fail_after(20):
        result = await probe(zygote, source, limit_s=limit_s, memory_bytes=1 << 29)

    failure = result.failure
    assert failure is not None
    assert (failure.kind, bad.message in failure.message) == (bad.kind, True), failure
    assert not bad.line or (failure.file, failure.line) == (source.path, bad.line)
    assert not any("sparkd/registry" in line for line in failure.trace)
    assert not zygote.lost.is_set()


GOOD_END = "\n" + services("[Service(name='good', config=NoConfig, run=run)]")
HARMLESS = {
    "prints": "print('x' * 10_000_000)",
    "starts a thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start()",
    "forks": "import os, time\nif os.fork() == 0:\n    time.sleep(1000)",
    "forks and goes on": "import os\nos.fork()",
    "leaves a process": "import subprocess\nsubprocess.Popen(['sleep', '1000'], start_new_session=True)",
    "replaces stdout": "import sys\nsys.stdout = None",
    "ignores signals": "import signal\nfor n in (1, 2, 15):\n    signal.signal(n, signal.SIG_IGN)",
    "registers an exit function": "import atexit, time\natexit.register(time.sleep, 1000)",
}


@pytest.mark.parametrize("source", HARMLESS.values(), ids=HARMLESS.keys())
async def test_what_does_no_harm_is_no_failure(zygote: Zygote, tmp_path: Path, source: str) -> None:
    with anyio.fail_after(10):
        result = await probe(zygote, drop_in(tmp_path, source + GOOD_END), limit_s=5)

    assert result.failure is None
    assert [manifest.name for manifest in result.manifests] == ["good"]


async def test_a_new_plugin_is_readable(zygote: Zygote, tmp_path: Path) -> None:
    source = drop_in(tmp_path, new_plugin("door-bell"), name="door-bell")
    result = await probe(zygote, source)

    (manifest,) = result.manifests
    assert result.failure is None
    assert (manifest.plugin, manifest.name, manifest.summary) == ("door-bell", "door-bell", "count, and tell the node.")
    assert manifest.publishes == ("edge.sensors.door-bell",)
    assert manifest.config_schema["properties"] == {"interval_s": {"type": "number", "default": 5.0}}


@pytest.mark.parametrize("name", ["Bad", "a b", "../x", "", "-x"])
def test_a_new_plugin_needs_a_good_name(name: str) -> None:
    with pytest.raises(ValueError, match="plugin name"):
        new_plugin(name)


async def test_everything_of_an_offer_is_in_the_manifest(zygote: Zygote, tmp_path: Path) -> None:
    source = drop_in(
        tmp_path,
        '"""all: everything at once."""\nfrom __future__ import annotations\n'
        + HEAD
        + textwrap.dedent("""
        @event("edge.sensors.door", durability=Durability.STATE)
        @dataclass(frozen=True, slots=True, kw_only=True)
        class Door:
            open: bool

        @dataclass(frozen=True, slots=True, kw_only=True)
        class Config:
            sensor: Path
            log: Path = Path("/var/log/x")
            names: tuple[str, ...] = ()
            limits: dict[str, float] = field(default_factory=dict)

        @hookimpl
        def sparkd_services() -> list[Service[Any]]:
            first = Service(name="first", config=NoConfig, run=run)
            return [first, Service(name="second", config=Config, run=run, serves=(Vision,),
                                   publishes=(Door, "edge.raw"), reads=("system",),
                                   needs=("path:/dev/door",), start_limit_s=3)]

        @hookimpl
        def sparkd_routes() -> list[Route]:
            return [Route(verb="POST", path="/v1/see", method="vision.infer"),
                    Route(verb="GET", path="/v1/other", method="other.get")]
        """),
        name="all",
    )
    result = await probe(zygote, source)
    assert result.failure is None
    first, second = result.manifests

    assert (first.plugin, first.summary) == ("all", "everything at once.")
    assert [route.path for route in first.routes] == ["/v1/other"]
    assert [route.path for route in second.routes] == ["/v1/see"]
    assert (second.publishes, second.states) == (("edge.sensors.door", "edge.raw"), ("edge.sensors.door",))
    assert (second.reads, second.needs, second.start_limit_s) == (("system",), ("path:/dev/door",), 3)
    assert {"infer", "models"} <= {method.name for method in second.serves[0].methods}
    assert second.config_schema["required"] == ["sensor"]
    assert second.config_schema["properties"]["log"]["default"] == "/var/log/x"
    assert second.config_schema["additionalProperties"] is False


async def test_probes_run_side_by_side(zygote: Zygote, tmp_path: Path) -> None:
    names = [f"p{number}" for number in range(20)]
    results: list[ProbeResult] = []

    async def one(name: str) -> None:
        results.append(await probe(zygote, drop_in(tmp_path, new_plugin(name), name=name)))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(one, name)

    assert sorted(result.manifests[0].name for result in results) == sorted(names)


async def test_without_a_zygote_it_is_nobodys_fault(tmp_path: Path) -> None:
    async with Zygote.fork({"probe": probe_main}).attach() as zygote:
        pass
    result = await probe(zygote, drop_in(tmp_path, new_plugin("a")))

    assert result.failure is not None
    assert result.failure.kind is FailureKind.UNAVAILABLE


def test_a_probe_that_had_to_be_killed_hung(tmp_path: Path) -> None:
    source = drop_in(tmp_path, "")
    failure = judge(None, b"", source=source, limit_s=10, output=())

    assert not isinstance(failure, tuple)
    assert (failure.kind, failure.file, failure.line) == (FailureKind.HUNG, source.path, 0)


def test_what_it_wrote_is_kept_where_there_is_no_traceback(tmp_path: Path) -> None:
    failure = judge(Exit(code=1), b"", source=drop_in(tmp_path, ""), limit_s=10, output=["bye"])

    assert not isinstance(failure, tuple)
    assert failure.trace == ("bye",)

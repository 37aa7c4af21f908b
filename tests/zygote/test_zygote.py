from __future__ import annotations

import gc
import json
import os
import signal
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from sparkd.zygote import Child, Exit, Zygote

pytestmark = pytest.mark.anyio


def run_source(spec: bytes, result_fd: int) -> int:
    names = {"result_fd": result_fd, "code": 0}
    exec(textwrap.dedent(spec.decode()), names)
    return int(names["code"])


@pytest.fixture
async def zygote(anyio_backend: str) -> AsyncIterator[Zygote]:
    async with Zygote.fork({"source": run_source}).attach() as attached:
        yield attached


async def outcome(zygote: Zygote, source: str, **options: object) -> tuple[Exit, list[str]]:
    lines: list[str] = []
    child = await zygote.spawn("source", source.encode(), on_line=lines.append, **options)  # type: ignore[arg-type]
    with anyio.fail_after(10):
        return await child.wait(), lines


async def spawn_and_hear(zygote: Zygote, source: str) -> tuple[Child, str]:
    """Start a child and wait for its first line."""
    send, receive = anyio.create_memory_object_stream[str](1000)
    child = await zygote.spawn("source", textwrap.dedent(source).encode(), on_line=send.send_nowait)
    with anyio.fail_after(10):
        first = await receive.receive()
    send.close()
    receive.close()
    return child, first


def children_of(pid: int) -> list[int]:
    """Return its children, zombies too."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def open_descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def oom_score_adj() -> int:
    return int(Path("/proc/self/oom_score_adj").read_text())


async def gone(pid: int, *, within_s: float = 1.0) -> None:
    """Wait until process *pid* has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with anyio.fail_after(within_s):
            await anyio.wait_readable(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("source", "code", "number"),
    [
        ("", 0, None),
        ("code = 3", 3, None),
        ("import sys; sys.exit(4)", 4, None),
        ("import sys; sys.exit()", 0, None),
        ("import os; os._exit(5)", 5, None),
        ("raise ValueError", 70, None),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", None, signal.SIGTERM),
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", None, signal.SIGINT),
        ("import ctypes; ctypes.string_at(0)", None, signal.SIGSEGV),
    ],
)
async def test_how_a_child_ended_is_reported(zygote: Zygote, source: str, code: int | None, number: int | None) -> None:
    how, _ = await outcome(zygote, source)

    assert (how.code, how.signal) == (code, number)
    assert how.max_rss_bytes > 1 << 20
    assert how.cpu_s >= 0


async def test_exit_in_words() -> None:
    assert str(Exit(code=3)) == "exit code 3"
    assert str(Exit(signal=signal.SIGSEGV)) == "killed by SIGSEGV"
    assert str(Exit(signal=40)) == "killed by signal 40"


async def test_output_and_traceback_come_as_lines(zygote: Zygote) -> None:
    _, lines = await outcome(zygote, "import os; print('said'); os.write(2, b'no end'); raise ValueError('why')")

    assert lines[0] == "said"
    assert lines[1].startswith("no endTraceback")
    assert lines[-1] == "ValueError: why"


async def test_a_message_for_sys_exit_is_printed(zygote: Zygote) -> None:
    how, lines = await outcome(zygote, "import sys; sys.exit('no device')")

    assert (how.code, lines) == (1, ["no device"])


async def test_spec_and_result_of_a_megabyte(zygote: Zygote) -> None:
    child = await zygote.spawn(
        "source",
        b"import os\ndata = "
        + repr("x" * 1_000_000).encode()
        + b"\nwith open(result_fd, 'w', closefd=False) as f: f.write(data)",
    )

    assert await child.result() == b"x" * 1_000_000


async def test_too_large_a_result_is_refused(zygote: Zygote) -> None:
    child = await zygote.spawn("source", b"import os; os.write(result_fd, b'x' * 101)", max_result_bytes=100)

    with pytest.raises(ValueError, match="larger than 100 bytes"):
        await child.result()


async def test_ten_megabytes_of_output_are_read_without_end(zygote: Zygote) -> None:
    child = await zygote.spawn("source", b"for _ in range(10): print('x' * 1_000_000)")

    with anyio.fail_after(5):
        assert (await child.wait()).code == 0


async def test_a_child_has_only_its_own_descriptors_session_and_name(zygote: Zygote) -> None:
    _, (line,) = await outcome(
        zygote,
        """
        import json, os, signal
        print(json.dumps({
            "descriptors": sorted(int(n) for n in os.listdir("/proc/self/fd"))[:-1],
            "leader": os.getsid(0) == os.getpid(),
            "name": open("/proc/self/comm").read().strip(),
            "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
            "term": signal.getsignal(signal.SIGTERM),
            "oom": int(open("/proc/self/oom_score_adj").read()),
            "env": os.environ["MARK"],
        }))
        """,
        name="power-monitor",
        env={"MARK": "here"},
    )
    seen = json.loads(line)

    assert seen["descriptors"] == [0, 1, 2, 3]
    assert seen["leader"]
    assert seen["name"] == "sparkd:power-mo"
    assert seen["blocked"] == []
    assert seen["term"] == signal.SIG_DFL
    assert seen["oom"] > oom_score_adj()
    assert seen["env"] == "here"


async def test_a_crash_point_is_armed_by_the_environment_given_at_birth(zygote: Zygote) -> None:
    source = "from sparkd import steps; steps.reached('a.b'); print('once'); steps.reached('a.b')"
    how, lines = await outcome(zygote, source, env={"SPARKD_CRASH_AT": "a.b:2"})

    assert (how.signal, lines) == (signal.SIGKILL, ["once"])


async def test_the_memory_limit_holds(zygote: Zygote) -> None:
    how, lines = await outcome(zygote, "x = bytearray(1 << 30)", memory_bytes=1 << 29)

    assert how.code == 70
    assert lines[-1] == "MemoryError"


async def test_an_unknown_kind_is_the_childs_failure(zygote: Zygote) -> None:
    child = await zygote.spawn("nonsense", b"")

    assert (await child.wait()).code == 70


async def test_a_signal_sent_at_once_is_not_lost(zygote: Zygote) -> None:
    for _ in range(20):
        child = await zygote.spawn("source", b"import signal; signal.pause()")
        child.kill(signal.SIGTERM)
        with anyio.fail_after(5):
            assert (await child.wait()).signal == signal.SIGTERM
        child.kill()  # nothing: it has ended


async def test_kill_removes_grandchildren(zygote: Zygote) -> None:
    child, grandchild = await spawn_and_hear(
        zygote, "import subprocess; p = subprocess.Popen(['sleep', '1000']); print(p.pid, flush=True); p.wait()"
    )
    child.kill()

    assert (await child.wait()).signal == signal.SIGKILL
    await gone(int(grandchild))


async def test_grandchildren_go_when_the_child_ends_by_itself(zygote: Zygote) -> None:
    source = "import subprocess; p = subprocess.Popen(['sleep', '1000']); print(p.pid, flush=True)"
    how, (grandchild,) = await outcome(zygote, source)

    assert how.code == 0
    await gone(int(grandchild))


async def test_a_grandchild_in_a_session_of_its_own_goes_too_and_does_not_hold_the_pipe(zygote: Zygote) -> None:
    source = """
    import subprocess
    print(subprocess.Popen(['sleep', '1000'], start_new_session=True).pid, flush=True)
    """
    how, (grandchild,) = await outcome(zygote, source)

    assert how.code == 0
    await gone(int(grandchild))


async def test_dump_says_where_a_stuck_child_is(zygote: Zygote) -> None:
    up, dumped = anyio.Event(), anyio.Event()

    def on_line(line: str) -> None:
        if line == "up":
            up.set()
        elif 'File "<string>", line 2' in line:
            dumped.set()

    child = await zygote.spawn("source", b"print('up', flush=True)\nwhile True: pass", on_line=on_line)
    with anyio.fail_after(5):
        await up.wait()
        while not dumped.is_set():  # the first dump may still find it in line 1
            child.dump()
            with anyio.move_on_after(0.2):
                await dumped.wait()
    child.kill()

    assert (await child.wait()).signal == signal.SIGKILL


async def test_fifty_children_at_once(zygote: Zygote) -> None:
    codes: list[int | None] = []

    async def one(number: int) -> None:
        child = await zygote.spawn("source", f"code = {number}".encode())
        codes.append((await child.wait()).code)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(one, number)

    assert sorted(code for code in codes if code is not None) == list(range(50))


async def test_a_hundred_children_leave_no_descriptor_and_no_zombie(zygote: Zygote) -> None:
    async def ten() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(outcome, zygote, "print('x')")

    def descriptors() -> tuple[int, int]:
        return open_descriptors(os.getpid()), open_descriptors(zygote.pid)

    await ten()
    gc.collect()
    before = descriptors()
    for _ in range(10):
        await ten()
    gc.collect()

    assert descriptors() == before
    assert children_of(zygote.pid) == []


async def test_a_child_whose_caller_was_cancelled_is_killed(zygote: Zygote) -> None:
    os.kill(zygote.pid, signal.SIGSTOP)
    with anyio.move_on_after(0.05):
        await zygote.spawn("source", b"import signal; signal.pause()")
    os.kill(zygote.pid, signal.SIGCONT)
    how, _ = await outcome(zygote, "")  # by now the zygote has forked the first

    assert how.code == 0
    for pid in children_of(zygote.pid):
        await gone(pid)


async def test_the_zygote_ignores_the_signals_of_a_terminal(zygote: Zygote) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(zygote.pid, number)
    how, _ = await outcome(zygote, "code = 1")

    assert how.code == 1
    assert not zygote.lost.is_set()


async def test_a_lost_zygote_takes_its_children_along_and_is_reported(zygote: Zygote) -> None:
    blocked = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())"
    child, _ = await spawn_and_hear(zygote, f"{blocked}\nprint('up', flush=True)\nwhile True: pass")
    os.kill(zygote.pid, signal.SIGKILL)

    with anyio.fail_after(1):
        await zygote.lost.wait()
        assert (await child.wait()).signal == signal.SIGKILL
    await gone(child.pid)
    with pytest.raises(ChildProcessError, match="the zygote is gone"):
        await zygote.spawn("source", b"")


async def test_leaving_kills_children_grandchildren_and_zygote() -> None:
    async with Zygote.fork({"source": run_source}).attach() as zygote:
        child, grandchild = await spawn_and_hear(
            zygote, "import subprocess; p = subprocess.Popen(['sleep', '1000']); print(p.pid, flush=True); p.wait()"
        )

    await gone(child.pid)
    await gone(int(grandchild))
    with pytest.raises(ProcessLookupError):
        os.kill(zygote.pid, 0)
    assert (await child.wait()).signal == signal.SIGKILL
    assert not zygote.lost.is_set()

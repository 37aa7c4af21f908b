from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from sparkd import CallError, CallErrorKind, ConfigError, DeviceError, StorageError
from sparkd.supervisor.failure import end_of
from sparkd.supervisor.policy import EndKind

HOME = Path(__file__).parent


def caught(error: BaseException) -> BaseException:
    try:
        raise error  # noqa: TRY301 - to give it a traceback
    except BaseException as raised:
        return raised


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (ValueError("no"), EndKind.FAILED, "ValueError: no"),
        (MemoryError(), EndKind.FAILED, "out of memory"),
        (DeviceError("no Hailo-8 found", remedy="fit one"), EndKind.MISSING, "no Hailo-8 found"),
        (ModuleNotFoundError("No module named 'x'", name="x"), EndKind.MISSING, "No module named 'x'"),
        (ConfigError("[plugins.x]: bad"), EndKind.MISCONFIGURED, "[plugins.x]: bad"),
        (StorageError("disk full"), EndKind.MISSING, "disk full"),
        (CallError(CallErrorKind.UNAVAILABLE, "gone", remedy="wait"), EndKind.MISSING, "gone"),
        (CallError(CallErrorKind.DENIED, "not you"), EndKind.FAILED, "CallError: denied: not you"),
    ],
)
def test_each_error_says_what_kind_of_end_it_is(error: BaseException, kind: EndKind, said: str) -> None:
    end = end_of(caught(error))

    assert (end.kind, end.reason) == (kind, said)


def test_what_is_missing_comes_with_its_remedy() -> None:
    assert end_of(DeviceError("no camera", remedy="plug one in")).remedy == "plug one in"


def test_the_line_named_is_in_the_plugins_own_files() -> None:
    with pytest.raises(TypeError) as raised:
        Path(None)  # type: ignore[arg-type]

    end = end_of(raised.value, home=HOME)

    assert Path(end.file) == Path(__file__)


def test_an_error_inside_groups_is_found() -> None:
    group = ExceptionGroup("a", [ExceptionGroup("b", [ValueError("deep")])])

    assert end_of(group).reason == "ValueError: deep"


def test_a_syntax_error_names_the_line_with_the_mistake() -> None:
    with pytest.raises(SyntaxError) as raised:
        compile("def f(:\n", "/x/plugin.py", "exec")

    assert (end_of(raised.value).file, end_of(raised.value).line) == ("/x/plugin.py", 1)


async def fail() -> None:
    raise RuntimeError("in a task")


@pytest.mark.anyio
async def test_an_error_in_a_task_is_told_as_itself() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        async with anyio.create_task_group() as tg:
            tg.start_soon(fail)

    assert end_of(raised.value, home=HOME).reason == "RuntimeError: in a task"

"""The child that runs one service: how it ends, as the core reads it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sparkd import child
from sparkd.child import ChildSpec, decode_end, service_main, why
from sparkd.errors import ConfigError, DeviceError
from sparkd.host import Place
from sparkd.registry import BrokenPluginError, FailureKind, PluginSource, SourceKind
from sparkd.service import NoConfig, Service
from sparkd.supervisor.policy import End, EndKind

PLACE = Place(node="n", node_id="0" * 32, site="s", runtime="/nowhere", state="/nowhere", token="t")


def spec(table: dict[str, Any] | None = None, path: str = "/nowhere/p.py") -> ChildSpec:
    source = PluginSource(name="p", kind=SourceKind.DROP_IN, path=path)
    return ChildSpec(source=source, service="p", place=PLACE, table=table or {}, origin="a.toml")


@pytest.fixture
def result() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def ended(result: tuple[int, int], monkeypatch: pytest.MonkeyPatch, runs: Any) -> tuple[int, End]:
    async def run(ctx: Any, *, task_status: Any) -> None: ...

    monkeypatch.setattr(child, "configure", lambda _level: None)  # this process's log is pytest's
    monkeypatch.setattr(child, "load_service", lambda _source, name: Service(name=name, config=NoConfig, run=run))
    monkeypatch.setattr(child, "run_loop", runs)
    code = service_main(msgspec.msgpack.encode(spec()), result[1])
    found = decode_end(os.read(result[0], 1 << 20))
    assert found is not None
    return code, found


def raising(error: BaseException) -> Any:
    def run(service: Any, spec: ChildSpec) -> bool:
        raise error

    return run


@pytest.mark.parametrize(("stopped", "kind"), [(True, EndKind.STOPPED), (False, EndKind.FINISHED)])
def test_an_end_in_order(
    result: tuple[int, int], monkeypatch: pytest.MonkeyPatch, *, stopped: bool, kind: EndKind
) -> None:
    code, end = ended(result, monkeypatch, lambda _service, _spec: stopped)
    assert (code, end.kind) == (0, kind)


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (ValueError("no"), EndKind.FAILED, "ValueError: no"),
        (SystemExit(3), EndKind.FAILED, "SystemExit: 3"),
        (KeyboardInterrupt(), EndKind.FAILED, "KeyboardInterrupt"),
        (BaseExceptionGroup("two", [SystemExit(1), ValueError("no")]), EndKind.FAILED, "SystemExit: 1"),
        (GeneratorExit(), EndKind.FAILED, "GeneratorExit"),
        (ExceptionGroup("one", [DeviceError("no lamp", remedy="plug it in")]), EndKind.MISSING, "no lamp"),
    ],
)
def test_whatever_is_raised_becomes_an_end(
    result: tuple[int, int], monkeypatch: pytest.MonkeyPatch, error: BaseException, kind: EndKind, reason: str
) -> None:
    code, end = ended(result, monkeypatch, raising(error))
    assert (code, end.kind, end.reason) == (1, kind, reason)


def test_a_reason_that_cannot_be_sent_or_shown_is_made_so(
    result: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, end = ended(result, monkeypatch, raising(OSError("\udcff\x1b[2J" + "x" * 10_000)))
    assert end.reason.startswith(r"OSError: \udcff\x1b[2Jxxx")
    assert len(end.reason) < 2100


def test_config_that_cannot_be_used_names_file_and_key() -> None:
    async def run(ctx: Any, *, task_status: Any) -> None: ...

    with pytest.raises(ConfigError) as caught:
        child.run_loop(Service(name="p", config=NoConfig, run=run), spec({"speed": 1}))
    assert "a.toml: [plugins.p] speed: unknown key" in str(caught.value)
    assert why(caught.value, spec()).kind is EndKind.MISCONFIGURED


def test_a_plugin_that_is_broken_by_now_says_so() -> None:
    end = why(BrokenPluginError(FailureKind.IMPORT, "it has changed"), spec())
    assert (end.kind, end.reason) == (EndKind.FAILED, "it has changed")


def test_the_line_named_is_the_plugins_own(tmp_path: Path) -> None:
    file = tmp_path / "p.py"
    file.write_text("def f():\n    [].index(1)\n")
    scope: dict[str, Any] = {}
    exec(compile(file.read_text(), str(file), "exec"), scope)
    with pytest.raises(ValueError, match="not in list") as caught:
        scope["f"]()
    end = why(caught.value, spec(path=str(file)))
    assert (end.file, end.line) == (str(file), 2)


@pytest.mark.parametrize("content", [b"", b"\xc1", b"\x80", msgspec.msgpack.encode({"kind": "nonsense"}), b"\x93\x01"])
def test_what_is_no_end_is_none(content: bytes) -> None:
    assert decode_end(content) is None


def test_an_end_made_up_by_a_child_cannot_drive_a_terminal() -> None:
    made_up = msgspec.msgpack.encode(End(kind=EndKind.FAILED, reason="\x1b[31mred", remedy="\x07", file="\x1b"))
    found = decode_end(made_up)
    assert found is not None
    assert (found.reason, found.remedy, found.file) == (r"\x1b[31mred", r"\x07", r"\x1b")

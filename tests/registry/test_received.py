from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sparkd.registry.probe import judge
from sparkd.registry.received import MAX_DEPTH, fault_of
from sparkd.registry.source import Failure, FailureKind, Manifests, PluginSource, SourceKind
from sparkd.service import InterfaceManifest, Manifest, MethodManifest, Route
from sparkd.zygote.children import Exit

SOURCE = PluginSource(name="it", kind=SourceKind.DROP_IN, path="/nowhere/it.py")
GOOD = Manifest(plugin="it", name="it", publishes=("edge.ai",), config_schema={"properties": {"a": {}}})


def served(**schema: Any) -> tuple[InterfaceManifest, ...]:
    return (InterfaceManifest(name="vision", methods=(MethodManifest(name="infer", params=schema),)),)


def nested(depth: int) -> dict[str, Any]:
    return {"items": nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, ""),
        ({"plugin": "node-telemetry"}, "says it is of plugin 'node-telemetry'"),
        ({"name": "core"}, "no name for a service"),
        ({"name": "../etc"}, "no name for a service"),
        ({"name": "a" * 1000}, "no name for a service"),
        ({"start_limit_s": float("nan")}, "start_limit_s is nan"),
        ({"publishes": ("edge ai",)}, "topic 'edge ai'"),
        ({"states": ("",)}, "topic ''"),
        ({"config_schema": {"properties": []}}, "the schema of its config"),
        ({"config_schema": nested(MAX_DEPTH + 5)}, "the schema of its config"),
        ({"config_schema": {"default": float("inf")}}, "the schema of its config"),
        (
            {"config_schema": {"enum": [msgspec.msgpack.Ext(1, b"")]}},
            "the schema of its config",
        ),
        ({"config_schema": {"enum": [1, "a", None, True, 1.5]}}, ""),
        ({"serves": (InterfaceManifest(name="a.b"),)}, "interface 'a.b'"),
        ({"serves": served(required=5)}, "the schema of vision.infer"),
        ({"serves": served(**{"$defs": {"a": 1}})}, "the schema of vision.infer"),
        ({"serves": served(items={"$ref": 1})}, "the schema of vision.infer"),
        ({"routes": (Route(verb="EXEC", path="/", method="a.b"),)}, "route EXEC /"),
        ({"routes": (Route(verb="GET", path="/", method="a.b", cache_s=float("nan")),)}, "route GET /"),
    ],
)
def test_what_another_process_says_of_a_plugin_is_looked_at(change: dict[str, Any], fault: str) -> None:
    found = fault_of((msgspec.structs.replace(GOOD, **change),), "it")
    assert fault in found
    assert bool(found) is bool(fault)


def test_how_many_services_there_may_be() -> None:
    assert "0 services" in fault_of((), "it")
    assert "two services of one name" in fault_of((GOOD, GOOD), "it")
    many = tuple(msgspec.structs.replace(GOOD, name=f"it-{n}") for n in range(65))
    assert "65 services" in fault_of(many, "it")


@pytest.mark.parametrize(
    "answer",
    [b"\x82\xa4type\xa9manifests\xa8services\x91\x81\xa6plugin\xa2\xff\xfe", b"\x91" * 5000, b"\xff", b""],
    ids=["text that is none", "nested", "no value", "nothing"],
)
def test_a_plugin_that_writes_what_is_nothing_into_its_answer_fails_alone(answer: bytes) -> None:
    verdict = judge(Exit(code=0), answer, source=SOURCE, limit_s=1.0, output=[])
    assert isinstance(verdict, Failure)


def test_a_plugin_cannot_say_it_is_another() -> None:
    answer = msgspec.msgpack.encode(Manifests((msgspec.structs.replace(GOOD, plugin="other"),)))
    verdict = judge(Exit(code=0), answer, source=SOURCE, limit_s=1.0, output=[])
    assert isinstance(verdict, Failure)
    assert verdict.kind is FailureKind.INVALID
    assert "'other'" in verdict.message

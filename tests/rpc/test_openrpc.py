from __future__ import annotations

import json
from dataclasses import dataclass, make_dataclass
from typing import Any, Protocol

from sparkd import Vision, interface, reads
from sparkd.rpc import core_manifest
from sparkd.rpc.openrpc import document
from sparkd.service import Manifest


@dataclass
class Tree:
    children: list[Tree]


@interface("trees")
class Trees(Protocol):
    @reads
    async def grow(self, *, tree: Tree, height: int = 3) -> dict[str, Tree]:
        """Let it grow."""
        ...


def describe(*manifests: Manifest) -> dict[str, Any]:
    return document(manifests, node="here", version="1")


def references(value: Any) -> set[str]:
    if isinstance(value, list):
        return {found for item in value for found in references(item)}
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(item) for item in value.values()))
    return set()


def test_every_reference_leads_somewhere() -> None:
    described = describe(core_manifest(Trees, Vision))

    for reference in references(described):
        place: Any = described
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
    assert "$defs" not in json.dumps(described)


def test_required_parameters_come_first_with_their_types() -> None:
    [method] = describe(core_manifest(Trees))["methods"]

    assert [(param["name"], param["required"]) for param in method["params"]] == [("tree", True), ("height", False)]
    assert method["summary"] == "Let it grow."
    assert method["x-reads"] is True


def test_two_types_of_one_name_are_kept_apart() -> None:
    other = make_dataclass("Tree", [("rings", int)])

    class Woods(Protocol):
        async def cut(self, *, tree: other) -> None: ...  # type: ignore[valid-type]

    Woods.cut.__annotations__["tree"] = other
    described = describe(core_manifest(Trees, interface("woods")(Woods)))

    assert set(described["components"]["schemas"]) == {"Tree", "woods.cut.Tree"}
    assert "rings" in described["components"]["schemas"]["woods.cut.Tree"]["properties"]


def test_an_interface_of_two_services_is_described_once() -> None:
    first = core_manifest(Trees)
    second = Manifest(plugin="p", name="second", serves=first.serves)

    [method] = describe(first, second)["methods"]

    assert method["x-services"] == ["core", "second"]

"""What is known of the methods there are, by name, from the manifests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sparkd.calls.address import parse_address
from sparkd.interfaces import interface_manifest
from sparkd.service import Manifest, MethodManifest


class Catalog:
    """Looks methods up in the manifests of the services that are loaded now, the core's among them."""

    def __init__(self, manifests: Callable[[], Sequence[Manifest]]) -> None:
        """Ask *manifests* each time; a new sequence is indexed once."""
        self._manifests = manifests
        self._indexed: Sequence[Manifest] = ()
        self._methods: dict[str, MethodManifest] = {}

    @property
    def manifests(self) -> Sequence[Manifest]:
        """The manifests as they are now."""
        return self._manifests()

    def find(self, method: str) -> MethodManifest | None:
        """Return what is known of *method*, wherever it is addressed to. Raises CallError if that is malformed."""
        manifests = self._manifests()
        if manifests is not self._indexed:
            self._indexed = manifests
            self._methods = {
                f"{interface.name}.{method.name}": method
                for manifest in reversed(manifests)  # the first that serves an interface answers for it
                for interface in manifest.serves
                for method in interface.methods
            }
        return self._methods.get(parse_address(method).name)


def core_manifest(*interfaces: type[Any]) -> Manifest:
    """Return the manifest of the service `core`, which serves *interfaces* and is no plugin."""
    serves = tuple(interface_manifest(interface) for interface in interfaces)
    return Manifest(plugin="sparkd", name="core", summary="the node itself", serves=serves)

"""What is known of the methods there are, by name, from the manifests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sparkd.interfaces import interface_manifest
from sparkd.service import Manifest, MethodManifest


class Catalog:
    """Looks methods up in the manifests of the services that are loaded now, the core's among them."""

    def __init__(self, manifests: Callable[[], Sequence[Manifest]]) -> None:
        """Ask *manifests* each time; a new sequence is indexed once."""
        self._manifests = manifests
        self._indexed: Sequence[Manifest] = ()
        self._methods: dict[str, MethodManifest] = {}
        self._services: dict[tuple[str, str], MethodManifest] = {}

    @property
    def manifests(self) -> Sequence[Manifest]:
        """The manifests as they are now."""
        return self._manifests()

    def find(self, method: str, service: str = "") -> MethodManifest | None:
        """Return what is known of *method*, `interface.method`, as *service* serves it, or else whoever does."""
        manifests = self._manifests()
        if manifests is not self._indexed:
            self._index(manifests)
        return self._services.get((service, method)) if service else self._methods.get(method)

    def names(self) -> list[str]:
        """Return every method that is known, `interface.method`."""
        self.find("")
        return sorted(self._methods)

    def _index(self, manifests: Sequence[Manifest]) -> None:
        self._indexed = manifests
        self._methods, self._services = {}, {}
        for manifest in reversed(manifests):  # the first that serves an interface answers for it
            for interface in manifest.serves:
                for method in interface.methods:
                    name = f"{interface.name}.{method.name}"
                    self._methods[name] = self._services[manifest.name, name] = method


def core_manifest(*interfaces: type[Any]) -> Manifest:
    """Return the manifest of the service `core`, which serves *interfaces* and is no plugin."""
    serves = tuple(interface_manifest(interface) for interface in interfaces)
    return Manifest(plugin="sparkd", name="core", summary="the node itself", serves=serves)

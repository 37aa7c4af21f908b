"""The registry: finds plugins, reads each in a throw-away child, and knows them by their manifests only.

Theory of operation. `discover` lists sources without touching their code: entry points of installed wheels, and files
and folders in the drop-in folders that nobody but root or the daemon's user could have written. `probe` has the zygote
fork a child that imports one source, checks what it offers and answers with manifests; whatever that code does, it
does to the child, and comes back as a `Failure` with file, line and reason. Manifests are kept by content hash. `load`
is what imports a plugin for good: in a service's child, or in the core for one that config names inline.
"""

from __future__ import annotations

from sparkd.registry.cache import ManifestCache
from sparkd.registry.discover import Discovery, discover
from sparkd.registry.faults import BrokenPluginError, where_in_dump
from sparkd.registry.load import load, load_service
from sparkd.registry.probe import probe, probe_main
from sparkd.registry.registry import Registry
from sparkd.registry.sample import new_plugin
from sparkd.registry.source import Failure, FailureKind, Manifests, PluginSource, ProbeResult, SourceKind
from sparkd.registry.watch import Changes, DropInWatch

__all__ = [
    "BrokenPluginError",
    "Changes",
    "Discovery",
    "DropInWatch",
    "Failure",
    "FailureKind",
    "ManifestCache",
    "Manifests",
    "PluginSource",
    "ProbeResult",
    "Registry",
    "SourceKind",
    "discover",
    "load",
    "load_service",
    "new_plugin",
    "probe",
    "probe_main",
    "where_in_dump",
]

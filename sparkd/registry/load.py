"""Import a plugin and take what its hooks return: in a throw-away child, in a service's child, or inline.

A drop-in is a module of its own name (`sparkd_drop_in_NAME`), and stands in `sys.modules` before its code runs:
dataclasses with postponed annotations look themselves up there.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from typing import Any

import pluggy

from sparkd import hookspecs
from sparkd.registry.faults import BrokenPluginError
from sparkd.registry.source import FailureKind, PluginSource, SourceKind
from sparkd.registry.validate import Offer, check_offer
from sparkd.service import Service

HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("sparkd_"))


def load(source: PluginSource, service_name: str | None = None) -> tuple[Service[Any], ...]:
    """Import the plugin and return its services, or only the one called *service_name*.

    Raises whatever the plugin raises, and BrokenPluginError if it breaks the contract or has no such service.
    """
    services = load_offer(source).services
    if service_name is None:
        return services
    return (_named(services, service_name, source),)


def load_service(source: PluginSource, service_name: str) -> Service[Any]:
    """Import the plugin and return its service called *service_name*. Raises as `load` does."""
    return load(source, service_name)[0]


def load_offer(source: PluginSource) -> Offer:
    """Import the plugin and return everything it offers, checked. Raises as `load` does."""
    plugin = _import(source)
    pm = pluggy.PluginManager("sparkd")
    pm.add_hookspecs(hookspecs)
    _refuse_unmarked(plugin)
    try:
        pm.register(plugin, name=source.name)
    except pluggy.PluginValidationError as error:
        raise BrokenPluginError(FailureKind.HOOK, " ".join(str(error).split())) from error
    _check_hooks(pm, plugin)
    offer = Offer(
        services=_returned(pm.hook.sparkd_services),
        routes=_returned(pm.hook.sparkd_routes),
        summary=_summary(plugin),
        hook=_implementation(pm.hook.sparkd_services),
    )
    check_offer(offer)
    return offer


def _named(services: tuple[Service[Any], ...], name: str, source: PluginSource) -> Service[Any]:
    for service in services:
        if service.name == name:
            return service
    has = ", ".join(service.name for service in services) or "none"
    raise BrokenPluginError(
        FailureKind.INVALID, f"plugin {source.name} has no service {name!r} any more; it has: {has}"
    )


class _FreshLoader(SourceFileLoader):
    """Compiles the source each time: bytecode is matched by a time in seconds, and an edit may be quicker."""

    def get_code(self, fullname: str) -> types.CodeType:
        path = self.get_filename(fullname)
        code: types.CodeType = self.source_to_code(self.get_data(path), path)
        return code


def _import(source: PluginSource) -> Any:
    if source.kind is SourceKind.DROP_IN:
        return _import_drop_in(source)
    module, _, attribute = source.entry.partition(":")
    plugin: Any = importlib.import_module(module.strip())
    for name in filter(None, attribute.partition("[")[0].strip().split(".")):
        plugin = getattr(plugin, name)
    return plugin


def _import_drop_in(source: PluginSource) -> types.ModuleType:
    sys.dont_write_bytecode = True  # a cache beside the source would look like a change of it
    name = "sparkd_drop_in_" + source.name.replace("-", "_")
    path = Path(source.path)
    is_folder = path.is_dir()
    file = path / "__init__.py" if is_folder else path
    loader = _FreshLoader(name, str(file))
    spec = importlib.util.spec_from_file_location(
        name, file, loader=loader, submodule_search_locations=[str(path)] if is_folder else None
    )
    assert isinstance(spec, ModuleSpec)  # noqa: S101 - there is always a spec where there is a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)
    return module


def _refuse_unmarked(plugin: Any) -> None:
    for name, function in vars(plugin).items() if hasattr(plugin, "__dict__") else ():
        if name.startswith("sparkd_") and inspect.isroutine(function) and not hasattr(function, "sparkd_impl"):
            raise BrokenPluginError(
                FailureKind.HOOK, f"{name} is not marked as a hook", remedy="put @hookimpl above it", at=function
            )


def _check_hooks(pm: pluggy.PluginManager, plugin: Any) -> None:
    for name in HOOKS:
        for implementation in getattr(pm.hook, name).get_hookimpls():
            function = implementation.function
            if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
                raise BrokenPluginError(
                    FailureKind.HOOK,
                    f"hook {name} is asynchronous",
                    remedy="a hook returns data: def, not async def",
                    at=function,
                )
    try:
        pm.check_pending()
    except pluggy.PluginValidationError as error:
        raise _misspelt(pm, plugin) from error


def _misspelt(pm: pluggy.PluginManager, plugin: Any) -> BrokenPluginError:
    for name, caller in vars(pm.hook).items():
        if name not in HOOKS and isinstance(caller, pluggy.HookCaller):
            nearest = difflib.get_close_matches(name, HOOKS, n=1, cutoff=0.0)[0]
            return BrokenPluginError(
                FailureKind.HOOK, f"unknown hook {name!r}. Did you mean {nearest!r}?", at=getattr(plugin, name, None)
            )
    return BrokenPluginError(FailureKind.HOOK, "it has an unknown hook")


def _implementation(hook: pluggy.HookCaller) -> Callable[..., Any] | None:
    implementations = hook.get_hookimpls()
    return implementations[0].function if implementations else None


def _returned(hook: pluggy.HookCaller) -> tuple[Any, ...]:
    results = hook()
    if not results:
        return ()
    (result,) = results
    if not isinstance(result, list | tuple):
        raise BrokenPluginError(
            FailureKind.INVALID,
            f"hook {hook.name} returned {type(result).__name__}; a list expected",
            at=_implementation(hook),
        )
    return tuple(result)


def _summary(plugin: Any) -> str:
    """Return the first line of the module's docstring, without the plugin's name before it."""
    line = (inspect.getdoc(plugin) or "").partition("\n")[0] if isinstance(plugin, types.ModuleType) else ""
    name, colon, rest = line.partition(": ")
    return rest if colon and " " not in name else line

"""Every hook there is, on one page. A plugin implements those it needs with `@hookimpl`.

Hooks are synchronous, have no side effects and return data; the core decides what runs, and where. Names begin with
`sparkd_`, so `grep sparkd_` finds them all, and a misspelt one is refused at load.
"""

from __future__ import annotations

from typing import Any

import pluggy

from sparkd.service import Route, Service

hookspec = pluggy.HookspecMarker("sparkd")
hookimpl = pluggy.HookimplMarker("sparkd")


@hookspec
def sparkd_services() -> list[Service[Any]]:  # type: ignore[empty-body]
    """Return the services this plugin offers. Called once in each process that loads the plugin, at load."""


@hookspec
def sparkd_routes() -> list[Route]:  # type: ignore[empty-body]
    """Return the HTTP routes the gateway should serve as calls of this plugin's interfaces."""

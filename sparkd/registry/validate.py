"""Whether what a plugin's hooks returned can be used. No I/O here; each message says what, where, got, expected."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from sparkd.events import TOPIC, event_type
from sparkd.interfaces import interface_spec
from sparkd.needs import parse_need
from sparkd.registry.faults import BrokenPluginError
from sparkd.registry.source import FailureKind
from sparkd.service import EnergyClass, Isolation, Route, Service

RESERVED = frozenset({"core"})
"""Service names that the daemon itself answers to."""
VERBS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
_METHOD = re.compile(r"([a-z0-9-]+:)?(?P<interface>[a-z][a-z0-9-]*)\.(?P<method>[a-z_][a-z0-9_]*)")


@dataclass(frozen=True, slots=True)
class Offer:
    """All that a plugin offers."""

    services: tuple[Service[Any], ...]
    routes: tuple[Route, ...]
    summary: str
    hook: Callable[..., Any] | None
    """The function that returned the services, to point at."""


def check_offer(offer: Offer) -> None:
    """Raise BrokenPluginError, pointing at the hook or at the function concerned, for the first thing wrong."""
    try:
        _check_names(offer)
        for service in offer.services:
            _check_service(service)
        for route in offer.routes:
            _check_route(route, offer.services)
        _once("route", (f"{route.verb} {route.path}" for route in offer.routes))
    except (ValueError, TypeError) as error:
        raise BrokenPluginError(FailureKind.INVALID, str(error), at=offer.hook) from error


def _check_names(offer: Offer) -> None:
    if offer.hook is None:
        raise ValueError("it has no hook sparkd_services, so it offers nothing")
    if not offer.services:
        raise ValueError("hook sparkd_services returned nothing; a list of Service expected")
    for service in offer.services:
        if not isinstance(service, Service):
            raise TypeError(f"hook sparkd_services returned a list with {service!r:.80}; only Service expected")
        if service.name in RESERVED:
            raise ValueError(f"service name {service.name!r} belongs to the daemon itself")
    _once("service", (service.name for service in offer.services))


def _once(what: str, names: Iterable[str]) -> None:
    name, count = max(Counter(names).items(), key=lambda pair: pair[1], default=("", 0))
    if count > 1:
        raise ValueError(f"{what} {name!r} is offered {count} times")


def _check_service(service: Service[Any]) -> None:
    where = f"service {service.name}"
    if not isinstance(service.isolation, Isolation):
        raise TypeError(f"{where}: isolation {service.isolation!r}; choices: {', '.join(Isolation)}")
    if not isinstance(service.energy, EnergyClass):
        raise TypeError(f"{where}: energy {service.energy!r}; choices: {', '.join(EnergyClass)}")
    for field in ("serves", "publishes", "reads", "needs"):
        if not isinstance(getattr(service, field), tuple | list):
            raise TypeError(f"{where}: {field} is {getattr(service, field)!r:.80}; a tuple expected")
    _check_config(service.config, where)
    _check_run(service.run, where)
    for cls in service.serves:
        interface_spec(cls)
    for topic in (*service.publishes, *service.reads):
        topic_of(topic, where)
    for need in service.needs:
        try:
            parse_need(need)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None


def topic_of(topic: type[Any] | str, where: str) -> str:
    """Return the topic that an event class or a string names. Raises ValueError or TypeError if it names none."""
    if isinstance(topic, type):
        return event_type(topic).topic
    if isinstance(topic, str) and TOPIC.fullmatch(topic):
        return topic
    raise ValueError(f"{where}: topic {topic!r}; an event class or dotted lower-case segments expected")


def _check_config(config: Any, where: str) -> None:
    if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
        raise TypeError(f"{where}: config is {config!r:.80}; a dataclass expected (NoConfig if there is none)")
    if all(_has_default(field) for field in dataclasses.fields(config) if field.init):
        try:
            config()
        except Exception as error:
            raise ValueError(f"{where}: the defaults of {config.__name__} are refused by itself: {error}") from error


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _check_run(run: Any, where: str) -> None:
    called = run if inspect.isroutine(run) or not callable(run) else run.__call__
    if not inspect.iscoroutinefunction(getattr(run, "func", called)):
        raise TypeError(f"{where}: run is {run!r:.80}; an async function expected")
    try:
        inspect.signature(run).bind(None, task_status=None)
    except TypeError as error:
        problem = f"{where}: run does not take (ctx, *, task_status): {error}"
        raise BrokenPluginError(FailureKind.INVALID, problem, at=run) from error


def _check_route(route: Any, services: tuple[Service[Any], ...]) -> None:
    if not isinstance(route, Route):
        raise TypeError(f"hook sparkd_routes returned a list with {route!r:.80}; only Route expected")
    where = f"route {route.verb} {route.path}"
    msgspec.convert(msgspec.to_builtins(route), Route)  # a struct does not check its own fields
    if route.verb not in VERBS:
        raise ValueError(f"{where}: unknown verb; choices: {', '.join(sorted(VERBS))}")
    if not route.path.startswith("/"):
        raise ValueError(f"{where}: a path begins with '/'")
    method = _METHOD.fullmatch(route.method)
    if method is None:
        raise ValueError(f"{where}: method {route.method!r}; [service:]interface.method expected")
    for served in (interface_spec(cls) for service in services for cls in service.serves):
        if served.name == method["interface"] and method["method"] not in served.methods:
            raise ValueError(f"{where}: interface {served.name} has no method {method['method']!r}")

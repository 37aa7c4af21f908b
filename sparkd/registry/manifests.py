"""A plugin's offer as plain data. No I/O here."""

from __future__ import annotations

from typing import Any

from sparkd.config import config_schema
from sparkd.events import Durability, event_type
from sparkd.interfaces import interface_manifest, interface_name
from sparkd.registry.faults import BrokenPluginError
from sparkd.registry.source import FailureKind
from sparkd.registry.validate import Offer, topic_of
from sparkd.service import Manifest, Route, Service


def build_manifests(plugin: str, offer: Offer) -> tuple[Manifest, ...]:
    """Return one manifest for each service of a checked offer; a route goes with the service that answers it."""
    routes: dict[str, list[Route]] = {service.name: [] for service in offer.services}
    for route in offer.routes:
        routes[_answering(route, offer.services)].append(route)
    return tuple(_manifest(plugin, service, offer, tuple(routes[service.name])) for service in offer.services)


def _answering(route: Route, services: tuple[Service[Any], ...]) -> str:
    service_name, colon, method = route.method.rpartition(":")
    if colon and any(service.name == service_name for service in services):
        return service_name
    interface = method.partition(".")[0]
    served = (s.name for s in services if interface in map(interface_name, s.serves))
    return next(served, services[0].name)


def _manifest(plugin: str, service: Service[Any], offer: Offer, routes: tuple[Route, ...]) -> Manifest:
    where = f"service {service.name}"
    events = [topic for topic in service.publishes if isinstance(topic, type)]
    return Manifest(
        plugin=plugin,
        name=service.name,
        summary=offer.summary,
        isolation=service.isolation,
        start_limit_s=service.start_limit_s,
        energy=service.energy,
        config_schema=_config_schema(service, at=offer.hook),
        serves=tuple(interface_manifest(cls) for cls in service.serves),
        publishes=tuple(topic_of(topic, where) for topic in service.publishes),
        states=tuple(event_type(cls).topic for cls in events if event_type(cls).durability is Durability.STATE),
        reads=tuple(topic_of(topic, where) for topic in service.reads),
        needs=tuple(service.needs),
        routes=routes,
    )


def _config_schema(service: Service[Any], *, at: object) -> dict[str, Any]:
    try:
        return config_schema(service.config)
    except TypeError as error:
        message = f"service {service.name}: its config has no schema: {error}"
        raise BrokenPluginError(FailureKind.INVALID, message, at=at) from error

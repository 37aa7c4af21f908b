"""A plugin's offer as plain data. No I/O here."""

from __future__ import annotations

import dataclasses
from pathlib import PurePath
from typing import Any, get_type_hints

import msgspec

from sparkd.events import Durability, event_type
from sparkd.interfaces import interface_manifest, interface_name
from sparkd.registry.faults import BrokenPluginError
from sparkd.registry.source import FailureKind
from sparkd.registry.validate import Offer, topic_of
from sparkd.service import Manifest, Route, Service

_REF = "#/$defs/{name}"


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
        config_schema=config_schema(service, at=offer.hook),
        serves=tuple(interface_manifest(cls) for cls in service.serves),
        publishes=tuple(topic_of(topic, where) for topic in service.publishes),
        states=tuple(event_type(cls).topic for cls in events if event_type(cls).durability is Durability.STATE),
        reads=tuple(topic_of(topic, where) for topic in service.reads),
        needs=tuple(service.needs),
        routes=routes,
    )


def config_schema(service: Service[Any], *, at: object = None) -> dict[str, Any]:
    """Return the JSON Schema of the service's config table. Raises BrokenPluginError, naming the field, if it has none.

    Built field by field, because msgspec gives up on a default that JSON has no type for, such as a path.
    """
    hints = get_type_hints(service.config, include_extras=True)
    properties: dict[str, Any] = {}
    definitions: dict[str, Any] = {}
    required = []
    for field in dataclasses.fields(service.config):
        if not field.init or (field.name == "unused" and hints[field.name] is type(None)):
            continue
        try:
            (schema,), found = msgspec.json.schema_components(
                [hints[field.name]], schema_hook=_schema_of_custom_type, ref_template=_REF
            )
        except TypeError as error:
            message = f"service {service.name}: config field {field.name!r} has no schema: {error}"
            raise BrokenPluginError(FailureKind.INVALID, message, at=at) from error
        definitions |= found
        properties[field.name] = schema | _default(field)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            required.append(field.name)
    schema = {"title": service.config.__name__, "type": "object", "properties": properties, "required": required}
    return schema | {"additionalProperties": False} | ({"$defs": definitions} if definitions else {})


def _default(field: dataclasses.Field[Any]) -> dict[str, Any]:
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    elif field.default is not dataclasses.MISSING:
        value = field.default
    else:
        return {}
    return {"default": msgspec.to_builtins(value, str_keys=True, enc_hook=str)}


def _schema_of_custom_type(kind: type[Any]) -> dict[str, Any]:
    if isinstance(kind, type) and issubclass(kind, PurePath):
        return {"type": "string", "format": "path"}
    if kind.__module__.startswith("sparkd."):  # our own types in config tables, such as a secret's name
        return {"type": "string", "title": kind.__name__}
    raise NotImplementedError

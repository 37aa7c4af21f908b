"""What Home Assistant is told of a node: one device, an entity for each thing. Pure.

The form is that of MQTT discovery by device (Home Assistant 2024.11 and later):
https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sparkd import POWER_MODES, topic_matches

from .config import MqttBridgeConfig

ONLINE, OFFLINE = "online", "offline"
TUNNEL = "system.tunnel.peer"
TUNNEL_STATES = ("up", "idle", "stale", "down", "asleep")


@dataclass(frozen=True, slots=True)
class Topics:
    """Where a node's messages are."""

    prefix: str
    node: str

    @property
    def base(self) -> str:
        """What all of them begin with."""
        return f"{self.prefix}/{self.node}"

    @property
    def availability(self) -> str:
        """Where it says whether the bridge is there."""
        return f"{self.base}/availability"

    def event(self, topic: str) -> str:
        """Where events of the bus's *topic* go."""
        return f"{self.base}/{topic.replace('.', '/')}"

    def command(self, name: str) -> str:
        """Where a command is taken."""
        return f"{self.base}/command/{name}"


def discovery_topic(config: MqttBridgeConfig, node_id: str) -> str:
    """Return where the device is announced."""
    return f"{config.discovery}/device/sparkd-{node_id}/config"


def payload(
    config: MqttBridgeConfig, topics: Topics, *, node_id: str, site: str, peers: Iterable[str]
) -> dict[str, Any]:
    """Return the announcement of a node, with an entity for the tunnel to each of *peers*."""
    entities = {
        **_measured(config, topics),
        **{f"tunnel_{peer}": _tunnel(topics, peer) for peer in peers if _published(config, TUNNEL)},
        **{f"service_{name}": _switch(topics, name) for name in config.switches},
        **{f"command_{name}": _command(config, topics, name) for name in config.commands},
    }
    for key, entity in entities.items():
        entity["unique_id"] = f"sparkd_{node_id}_{key}"
    return {
        "device": {
            "identifiers": [f"sparkd-{node_id}"],
            "name": topics.node,
            "manufacturer": "sparkd",
            "model": "node",
            "suggested_area": site,
        },
        "origin": {"name": "sparkd mqtt-bridge"},
        "availability": [{"topic": topics.availability}],
        "qos": 1,
        "components": entities,
    }


def _published(config: MqttBridgeConfig, topic: str) -> bool:
    return any(topic_matches(one, topic) for one in config.publish)


def _measured(config: MqttBridgeConfig, topics: Topics) -> dict[str, dict[str, Any]]:
    power = {"platform": "sensor", "state_topic": topics.event("edge.sensors.power"), "state_class": "measurement"}
    found: dict[tuple[str, str], dict[str, Any]] = {
        ("power_mode", "system.power.mode"): {
            "platform": "sensor",
            "name": "Power mode",
            "device_class": "enum",
            "options": list(POWER_MODES),
            "state_topic": topics.event("system.power.mode"),
            "value_template": "{{ value_json.mode }}",
        },
        ("charge", "edge.sensors.power"): {
            **power,
            "name": "Charge",
            "device_class": "battery",
            "unit_of_measurement": "%",
            "value_template": "{{ value_json['values'].charge_percent | default(none) }}",
        },
        ("load", "edge.sensors.power"): {
            **power,
            "name": "Load",
            "device_class": "power",
            "unit_of_measurement": "W",
            "value_template": "{{ value_json['values'].load_watts | default(none) }}",
        },
        ("time_to_empty", "edge.sensors.power"): {
            **power,
            "name": "Time to empty",
            "device_class": "duration",
            "unit_of_measurement": "s",
            "value_template": "{{ value_json.time_to_empty_s }}",
        },
        ("health", "system.health"): {
            "platform": "binary_sensor",
            "name": "Problem",
            "device_class": "problem",
            "entity_category": "diagnostic",
            "state_topic": topics.event("system.health"),
            "value_template": "{{ 'OFF' if value_json.ok else 'ON' }}",
            "json_attributes_topic": topics.event("system.health"),
        },
        ("detection", "edge.ai.inference"): {
            "platform": "sensor",
            "name": "Detection",
            "state_topic": topics.event("edge.ai.inference"),
            "value_template": "{{ value_json.detections[0].label if value_json.detections else 'nothing' }}",
            "json_attributes_topic": topics.event("edge.ai.inference"),
        },
        ("detections", "edge.ai.inference"): {
            "platform": "sensor",
            "name": "Detections",
            "state_class": "measurement",
            "state_topic": topics.event("edge.ai.inference"),
            "value_template": "{{ value_json.detections | count }}",
        },
    }
    return {key: entity for (key, topic), entity in found.items() if _published(config, topic)}


def _tunnel(topics: Topics, peer: str) -> dict[str, Any]:
    return {
        "platform": "sensor",
        "name": f"Tunnel to {peer}",
        "device_class": "enum",
        "options": list(TUNNEL_STATES),
        "entity_category": "diagnostic",
        "state_topic": topics.event(f"{TUNNEL}.{peer}"),
        "value_template": "{{ value_json.state }}",
    }


def _switch(topics: Topics, name: str) -> dict[str, Any]:
    return {
        "platform": "switch",
        "name": name,
        "entity_category": "config",
        "command_topic": topics.command(name),
        "state_topic": topics.event(f"system.health.service.{name}"),
        "value_template": "{{ 'ON' if value_json.state in ('running', 'degraded', 'starting') else 'OFF' }}",
    }


def _command(config: MqttBridgeConfig, topics: Topics, name: str) -> dict[str, Any]:
    command = config.commands[name]
    if command.choices:
        return {
            "platform": "select",
            "name": name,
            "command_topic": topics.command(name),
            "options": list(command.choices),
            "optimistic": True,
        }
    return {"platform": "button", "name": name, "command_topic": topics.command(name), "payload_press": "PRESS"}

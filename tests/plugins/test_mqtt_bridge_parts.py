"""What Home Assistant is told, against the keys it documents; and what a message may ask for."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd_plugins.mqtt_bridge.commands import Call, Commands, RefusedError
from sparkd_plugins.mqtt_bridge.config import CommandConfig, MqttBridgeConfig
from sparkd_plugins.mqtt_bridge.discovery import Topics, discovery_topic, payload

ENTITY = {"platform", "name", "unique_id", "entity_category", "json_attributes_topic", "icon", "enabled_by_default"}
KEYS = {
    "sensor": ENTITY
    | {
        "state_topic",
        "value_template",
        "device_class",
        "unit_of_measurement",
        "state_class",
        "options",
        "expire_after",
    },
    "binary_sensor": ENTITY
    | {"state_topic", "value_template", "device_class", "payload_on", "payload_off", "expire_after"},
    "switch": ENTITY
    | {
        "command_topic",
        "state_topic",
        "value_template",
        "payload_on",
        "payload_off",
        "state_on",
        "state_off",
        "optimistic",
    },
    "button": ENTITY | {"command_topic", "payload_press", "device_class"},
    "select": ENTITY | {"command_topic", "options", "state_topic", "optimistic", "value_template"},
}
"""What https://www.home-assistant.io/integrations/PLATFORM.mqtt/ documents, for entities within a device."""
NEEDED = {
    "sensor": {"state_topic"},
    "binary_sensor": {"state_topic"},
    "switch": {"command_topic"},
    "button": {"command_topic"},
    "select": {"command_topic", "options"},
}
TOP = {"device", "origin", "components", "availability", "availability_mode", "qos", "encoding", "state_topic"}
DEVICE = {
    "identifiers",
    "name",
    "manufacturer",
    "model",
    "sw_version",
    "suggested_area",
    "configuration_url",
    "via_device",
}
SENSOR_CLASSES = {"enum", "battery", "power", "duration"}
UNITS = {"battery": "%", "power": "W", "duration": "s"}
CONFIG = MqttBridgeConfig(
    commands={
        "restart": CommandConfig(method="plugins.restart", params={"name": "it"}),
        "hold": CommandConfig(
            method="power.hold", parameter="mode", choices=["on-grid", "low"], params={"seconds": 60.0}
        ),
    },
    switches=["trainer"],
    commands_per_minute=5,
)


def said(config: MqttBridgeConfig = CONFIG) -> dict[str, Any]:
    return payload(config, Topics("sparkd", "home-pc"), node_id="ab12", site="home", peers=["hub"])


def test_every_key_is_one_that_home_assistant_documents() -> None:
    told = said()

    assert set(told) <= TOP
    assert set(told["device"]) <= DEVICE
    assert told["device"]["identifiers"] == ["sparkd-ab12"]
    assert told["origin"]["name"]
    for one in told["availability"]:
        assert set(one) <= {"topic", "payload_available", "payload_not_available", "value_template"}
    platforms = set()
    for entity in told["components"].values():
        platforms.add(entity["platform"])
        assert set(entity) <= KEYS[entity["platform"]]
        assert set(entity) >= NEEDED[entity["platform"]] | {"unique_id", "name"}
    assert platforms == set(KEYS)
    ids = [entity["unique_id"] for entity in told["components"].values()]
    assert len(ids) == len(set(ids))
    assert discovery_topic(CONFIG, "ab12") == "homeassistant/device/sparkd-ab12/config"


def test_classes_units_and_options_fit_each_other() -> None:
    for entity in said()["components"].values():
        kind = entity.get("device_class")
        if entity["platform"] != "sensor":
            continue
        assert kind is None or kind in SENSOR_CLASSES
        assert entity.get("unit_of_measurement") == UNITS.get(kind)
        assert ("options" in entity) == (kind == "enum")
        assert not (kind == "enum" and "state_class" in entity)


def test_what_is_not_published_is_no_entity() -> None:
    told = said(MqttBridgeConfig(publish=["system.health"]))

    assert list(told["components"]) == ["health"]


def asks(name: str, text: bytes, *, retained: bool = False, now: float = 0.0) -> Call:
    return Commands(CONFIG).call(name, text, retained=retained, now=now)


def test_only_what_the_config_names_is_called() -> None:
    assert asks("restart", b"PRESS") == Call("plugins.restart", {"name": "it"}, 10.0)
    assert asks("hold", b"low").params == {"seconds": 60.0, "mode": "low"}
    assert asks("trainer", b"OFF") == Call("plugins.stop", {"name": "trainer"}, 30.0)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("other", b"PRESS", "no command is called 'other'"),
        ("restart/../x", b"PRESS", "no command"),
        ("restart", b"", "PRESS expected"),
        ("restart", b'{"name": "core"}', "PRESS expected"),
        ("hold", b"critical", "one of on-grid, low expected"),
        ("trainer", b"on", "ON or OFF expected"),
        ("restart", b"x" * 1000, "1000 bytes"),
        ("restart", b"\xff\xfe", "PRESS expected"),
    ],
)
def test_anything_else_is_refused(name: str, text: bytes, why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        asks(name, text)


def test_a_retained_command_and_a_flood_are_refused() -> None:
    with pytest.raises(RefusedError, match="retained"):
        asks("restart", b"PRESS", retained=True)
    commands = Commands(CONFIG)
    for _ in range(5):
        commands.call("restart", b"PRESS", retained=False, now=1.0)
    with pytest.raises(RefusedError, match="more than 5"):
        commands.call("restart", b"PRESS", retained=False, now=60.0)
    commands.call("restart", b"PRESS", retained=False, now=61.0)


@given(st.text(max_size=20), st.binary(max_size=400))
def test_any_message_is_a_call_of_the_config_or_refused(name: str, text: bytes) -> None:
    with suppress(RefusedError):
        assert asks(name, text).method in {"plugins.restart", "power.hold", "plugins.start", "plugins.stop"}


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"prefix": "a/#"}, "prefix: levels"),
        ({"port": 0}, "port: "),
        ({"publish": ["A"]}, "publish: "),
        ({"switches": ["hold"], "commands": CONFIG.commands}, "names of commands too"),
        ({"switches": ["A/b"]}, "a command's name"),
        ({"commands_per_minute": 0}, "commands_per_minute"),
        ({"retry_least_s": 9.0, "retry_most_s": 1.0}, "retry_least_s"),
    ],
)
def test_what_cannot_be_is_refused(keys: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        MqttBridgeConfig(**keys)
    with pytest.raises(ValueError, match="both or none"):
        CommandConfig(method="a.b", parameter="x")
    with pytest.raises(ValueError, match="method: "):
        CommandConfig(method="os.system('x')")

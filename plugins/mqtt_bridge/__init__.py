"""mqtt-bridge: this node's state on an MQTT broker, as entities of Home Assistant, and the commands it allows back.

`discovery` says what Home Assistant is told, `commands` what may be asked, `broker` speaks MQTT.
"""

from __future__ import annotations

from typing import Any

from sparkd import EnergyClass, Service, hookimpl

from .config import MqttBridgeConfig
from .service import run


@hookimpl
def sparkd_services() -> list[Service[Any]]:
    """Offer the one service of this plugin."""
    reads = ("edge", "system", "cloud", "models", "analytics")  # its config may name any topic of the platform
    return [Service(name="mqtt-bridge", config=MqttBridgeConfig, run=run, reads=reads, energy=EnergyClass.ESSENTIAL)]

"""What an operator may set in `[plugins.power-monitor]`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from sparkd import POWER_MODES

from .modes import ModesConfig
from .policy import ModePolicy, ShutdownConfig, default_policies
from .ranges import DAY_S, HOUR_S, check_range
from .source_csv import CsvConfig
from .source_gpio import GpioConfig
from .source_i2c import I2cConfig
from .source_modbus import ModbusConfig
from .source_nut import NutConfig
from .source_pi import PiConfig
from .source_pisugar import PisugarConfig
from .source_power_supply import PowerSupplyConfig
from .source_service import ServiceConfig
from .source_vedirect import VedirectConfig

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
KINDS = ("nut", "power_supply", "i2c", "gpio", "pisugar", "vedirect", "modbus", "pi", "csv", "service")


def _units() -> dict[str, str]:
    return {"inference": "sparkd_inference_pictures", "token": "sparkd_llm_tokens"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerMonitorConfig:
    """The table `[plugins.power-monitor]`. Each source has a table of its own, by kind and name."""

    nut: dict[str, NutConfig] = field(default_factory=dict)
    power_supply: dict[str, PowerSupplyConfig] = field(default_factory=dict)
    i2c: dict[str, I2cConfig] = field(default_factory=dict)
    gpio: dict[str, GpioConfig] = field(default_factory=dict)
    pisugar: dict[str, PisugarConfig] = field(default_factory=dict)
    vedirect: dict[str, VedirectConfig] = field(default_factory=dict)
    modbus: dict[str, ModbusConfig] = field(default_factory=dict)
    pi: dict[str, PiConfig] = field(default_factory=dict)
    csv: dict[str, CsvConfig] = field(default_factory=dict)
    service: dict[str, ServiceConfig] = field(default_factory=dict)
    """Drop-ins that serve the interface `power-source`."""
    order: list[str] = field(default_factory=list)
    """Names of sources, the one that counts first first; those not named come behind, kind by kind."""
    stale_after_s: float = 15.0
    """A source that is silent for longer counts as knowing nothing; one with a long interval after three of them."""
    sample_interval_s: float = 10.0
    """Time between two `PowerSample`."""
    say_interval_s: float = 30.0
    """The mode is said at every change, and again after so long."""
    privacy: Literal["node", "local", "shared"] = "local"
    """How far samples may travel. Who sees what a house uses sees when somebody is at home."""
    speaks_for_site: bool = False
    """Whether the sources here watch what feeds the whole site."""
    site_stale_s: float = 300.0
    """How long the word of another node about the site counts."""
    modes: ModesConfig = field(default_factory=ModesConfig)
    policy: dict[str, ModePolicy] = field(default_factory=dict)
    """What is done in which mode, instead of what is done by default."""
    shutdown: ShutdownConfig = field(default_factory=ShutdownConfig)
    wake: list[str] = field(default_factory=list)
    """Hosts of /etc/sparkd/priv.toml that are woken once the mains have been back for `wake_after_s`, unless they are
    nodes that are linked already."""
    wake_after_s: float = 60.0
    restore_step_s: float = 1.0
    """Between two services that come back, so that they do not all start at once."""
    dry_run: bool = False
    """Whether what would be done is only said."""
    energy_interval_s: float = 10.0
    """How often energy is accounted."""
    energy_units: dict[str, str] = field(default_factory=_units)
    """Counters (Prometheus, of any service here) by the unit of work they count: what one of each costs is told."""
    record: str = ""
    """A CSV file that the chosen values are appended to, for replay; none for no recording."""

    def __post_init__(self) -> None:
        ranges = {
            "stale_after_s": (1.0, HOUR_S),
            "sample_interval_s": (0.1, HOUR_S),
            "say_interval_s": (1.0, HOUR_S),
            "site_stale_s": (5.0, DAY_S),
            "wake_after_s": (0.0, DAY_S),
            "restore_step_s": (0.0, 60.0),
            "energy_interval_s": (1.0, HOUR_S),
        }
        for key, (low, high) in ranges.items():
            check_range(key, getattr(self, key), low, high)
        if self.say_interval_s * 2 > self.site_stale_s:
            raise ValueError("site_stale_s: at least twice say_interval_s expected, or the site's mode comes and goes")
        for mode in self.policy:
            if mode not in POWER_MODES or mode == "unknown":
                raise ValueError(f"policy: one of {', '.join(POWER_MODES[:-1])} expected, got {mode!r}")
        self._check_names()

    def _check_names(self) -> None:
        names = [name for kind in KINDS for name in getattr(self, kind)]
        for name in names:
            if not NAME.fullmatch(name):
                raise ValueError(f"a source's name: lower-case letters, digits, '-' and '_' expected, got {name!r}")
            if names.count(name) > 1:
                raise ValueError(f"two sources are called {name!r}: a name is for one source, of whatever kind")
        for name in self.order:
            if name not in names:
                raise ValueError(f"order: no source is called {name!r}; there are {', '.join(names) or 'none'}")

    def sources(self) -> dict[str, tuple[str, Any]]:
        """Return each source's kind and config by its name, in the order in which they count."""
        found = {name: (kind, config) for kind in KINDS for name, config in getattr(self, kind).items()}
        names = [*self.order, *(name for name in found if name not in self.order)]
        return {name: found[name] for name in names}

    def policies(self) -> dict[str, ModePolicy]:
        """Return what is done in each mode: the defaults, and what the config says instead."""
        return {**default_policies(), **self.policy}

"""What an operator may set in `[plugins.hailo-inference]`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sparkd import POWER_MODES

from .device_config import HailoConfig
from .source_config import ModeRule, SourceConfig

DEFAULT_BUNDLE = Path(__file__).parent / "models" / "nanodet-coco-416"


@dataclass(frozen=True, slots=True, kw_only=True)
class HailoInferenceConfig:
    """The table `[plugins.hailo-inference]`."""

    backend: Literal["auto", "onnxruntime", "hailo"] = "auto"
    """What runs the model; `auto` takes the Hailo if there is one and a bundle has a model for it, else the CPU."""
    bundles: list[Path] = field(default_factory=list)
    """Folders of model bundles. The first is what the watched folder uses; none stands for the packaged detector."""
    model_folders: list[Path] = field(default_factory=list)
    """Folders, such as one on the NAS, beneath which `vision.load` and `vision.switch` may find bundles; `models` in
    the service's own state folder is always one."""
    watch: Path | None = None
    """A folder to watch for pictures; none to answer calls only."""
    after: Literal["keep", "delete", "move"] = "keep"
    """What becomes of a picture once its result is stored. `move` puts it in `done`, a bad one in `bad`, beneath the
    folder; `delete` leaves bad ones where they are."""
    privacy: Literal["node", "local", "shared"] = "local"
    """How far the labels and boxes of the watched pictures may travel. The pictures themselves go nowhere."""
    threads: int = 2
    """Threads that the runtime computes with."""
    max_pixels: int = 50_000_000
    """Larger pictures are refused by their header, before anything is decoded; a pixel costs about four bytes."""
    max_bytes: int = 32 << 20
    """Larger files are refused unread."""
    sources: list[SourceConfig] = field(default_factory=list)
    """Cameras, streams, videos and more folders to watch."""
    modes: dict[str, ModeRule] = field(default_factory=dict)
    """What the live sources do in a power mode, by its name."""
    hailo: HailoConfig = field(default_factory=HailoConfig)
    """The accelerator, if there is one."""

    def __post_init__(self) -> None:
        for key, path in [
            ("watch", self.watch),
            *(("bundles", one) for one in self.bundles),
            *(("model_folders", one) for one in self.model_folders),
        ]:
            if path is not None and not path.is_absolute():
                raise ValueError(f"{key}: an absolute path expected, got {str(path)!r}")
        names = [source.name for source in self.sources]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"sources: each has a name of its own, {name!r} has {names.count(name)}")
        for mode in self.modes:
            if mode not in POWER_MODES:
                raise ValueError(f"modes: one of {', '.join(POWER_MODES)} expected, got {mode!r}")
        for key in ("threads", "max_pixels", "max_bytes"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}: must be 1 or more, got {getattr(self, key)}")

    @property
    def bundle_folders(self) -> list[Path]:
        """The bundles to load: those configured, or the packaged one."""
        return self.bundles or [DEFAULT_BUNDLE]

"""Annotated pictures of what a source saw, in a folder that stays within its bounds."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path

from sparkd import Inference

from .picture import Pixels, annotated
from .source_config import SourceConfig


class Snapshots:
    """The pictures of one source. Blocking; used by one thread at a time."""

    def __init__(self, spec: SourceConfig, folder: Path) -> None:
        """Keep them in *folder*, as *spec* bounds them."""
        self._spec = spec
        self._folder = folder
        self._mine = re.compile(re.escape(spec.name) + r"-\d{8}T\d{6}\.\d{3}Z\.jpg")
        self._next = 0.0

    def due(self) -> bool:
        """Whether it is time for another; then the time counts from now."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._spec.snapshot_every_s
        return True

    def keep(self, pixels: Pixels, inference: Inference) -> str:
        """Draw what was found and keep the picture; return its file name. Old ones make room before.

        Raises OSError if the disk refuses.
        """
        marks = [(f"{found.label} {found.score:.2f}", found.box) for found in inference.detections]
        words = [(f"{found.label} {found.score:.2f}", None) for found in inference.labels]
        content = annotated(pixels, [*marks, *words])
        self._folder.mkdir(parents=True, exist_ok=True)
        self._make_room(len(content))
        taken_ns = inference.source_ns or time.time_ns()
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(taken_ns // 10**9))
        name = f"{self._spec.name}-{stamp}.{taken_ns // 10**6 % 1000:03}Z.jpg"
        unfinished = self._folder / f".{name}.part"
        try:
            unfinished.write_bytes(content)
            unfinished.rename(self._folder / name)
        except OSError:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise
        return name

    def _make_room(self, wanted: int) -> None:
        with os.scandir(self._folder) as entries:
            held = sorted((one.name, one.stat().st_size) for one in entries if self._mine.fullmatch(one.name))
        total = sum(size for _, size in held)
        while held and (len(held) >= self._spec.snapshot_files or total + wanted > self._spec.snapshot_bytes):
            name, size = held.pop(0)  # the names sort by time
            (self._folder / name).unlink(missing_ok=True)
            total -= size

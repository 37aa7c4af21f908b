"""Pixels from one service to the detector of another, through shared memory; models changed under way, none refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sparkd.testing import Node, short_folder
from tests.system.watching import runs

CAMERA = '''\
"""camera: shows a photograph to whoever serves vision, as pixels."""

from pathlib import Path
from typing import Any, Protocol

import anyio

from sparkd import Array, NoConfig, Service, Vision, hookimpl, interface


@interface("camera")
class Camera(Protocol):
    """A camera."""

    async def look(self, *, times: int) -> dict[str, Any]:
        """Look so many times, all at once; return what was found in each, and by which models."""
        ...


class Handler:
    def __init__(self, ctx, pixels):
        self.ctx, self.pixels = ctx, pixels

    async def look(self, *, times: int) -> dict[str, Any]:
        found, models = [], set()

        async def one():
            answer = await self.ctx.call(Vision, deadline_s=60).infer(picture=Array.of(self.pixels), source="camera")
            models.add(answer.model)
            found.append(sorted({detection.label for detection in answer.detections}))

        async with anyio.create_task_group() as group:
            for _ in range(times):
                group.start_soon(one)
        return {"found": found, "models": sorted(models), "bytes": int(self.pixels.nbytes)}


async def run(ctx, *, task_status):
    import numpy as np
    from PIL import Image

    with Image.open(PICTURE) as picture:
        pixels = np.asarray(picture.convert("RGB")).copy()
    await ctx.serve(Camera, Handler(ctx, pixels))
    task_status.started()
    await anyio.sleep_forever()


@hookimpl
def sparkd_services():
    return [Service(name="camera", config=NoConfig, run=run, serves=(Camera,))]
'''


@pytest.fixture
def node() -> Iterator[Node]:
    from sparkd_plugins.hailo_inference.demo import PICTURES  # noqa: PLC0415 - brings numpy

    with short_folder() as root:
        made = Node("eye", root, '[node]\nname = "eye"\n[plugins.hailo-inference]\nthreads = 1\n').prepare()
        (made.plugins / "camera.py").write_text(f'PICTURE = "{PICTURES}/chelsea.png"\n{CAMERA}')
        (made.plugins / "hailo-inference.py").write_text("from sparkd_plugins.hailo_inference import sparkd_services\n")
        made.start()
        try:
            runs(made, "hailo-inference", limit_s=30)
            runs(made, "camera", limit_s=30)
            yield made
        finally:
            made.stop()


@pytest.mark.timeout(120)
def test_pixels_are_looked_at_and_no_request_is_lost_while_models_change(node: Node) -> None:
    seen = node.call("camera.look", timeout_s=60, times=1)
    assert seen["bytes"] > 64 << 10  # more than goes by the sockets
    assert seen["found"] == [["cat"]]
    (first,) = seen["models"]

    changed = node.call("vision.switch", timeout_s=60, folder="nanodet-coco-416-int8")
    assert changed["name"] != first
    seen = node.call("camera.look", timeout_s=60, times=8)
    assert seen["models"] == [changed["name"]]
    assert seen["found"] == [["cat"]] * 8

"""What live sources cost over the bare runtime: videos looked at by `hailo-inference`, and by a plain loop.

Both sides look at the same frames of the same files with the same model: `one` file, then `four` at once (the same
number of frames in all). The plain loop is one thread that decodes, converts, preprocesses, runs the session and
decodes boxes, without any code of the service around it. The service does so with its threads, its board, its queue of
results and its metrics; files are read as fast as models take frames, so nothing is dropped. Events are
counted and thrown away:
what storing them costs is another benchmark's (`outbox.py`).

The target, at most 5 % more time a frame, is for `service / plain loop`. `bare` is `session.run` alone, and `infer` the
same from inside the service. Rounds alternate; each ratio is the median of the rounds' ratios.

    python benchmarks/sources.py [--rounds N] [--frames N] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.to_thread
import av
import numpy as np
from inference import TARGET, bare_session
from prometheus_client import CollectorRegistry

from sparkd import Context, Inference, Privacy
from sparkd_plugins.hailo_inference.config import HailoInferenceConfig
from sparkd_plugins.hailo_inference.demo import frames
from sparkd_plugins.hailo_inference.live import Live
from sparkd_plugins.hailo_inference.picture import open_picture
from sparkd_plugins.hailo_inference.pipeline import Model, open_models
from sparkd_plugins.hailo_inference.postprocess import detect
from sparkd_plugins.hailo_inference.preprocess import place, to_source, to_tensor
from sparkd_plugins.hailo_inference.roster import Roster
from sparkd_plugins.hailo_inference.source_config import SourceConfig
from sparkd_plugins.hailo_inference.vision import Meters

WIDTH, HEIGHT = 640, 480


@dataclass
class Sink:
    """The part of a Context that sources use; counts events."""

    config: HailoInferenceConfig
    state_dir: Path
    wanted: int
    metrics: CollectorRegistry = field(default_factory=CollectorRegistry)
    events: list[Inference] = field(default_factory=list)
    done: anyio.Event = field(default_factory=anyio.Event)
    node: str = "here"
    site: str = "here"

    log = bus = property(lambda self: self)

    def info(self, event: str, **fields: object) -> None: ...

    def warning(self, event: str, **fields: object) -> None:
        raise RuntimeError(f"{event}: {fields}")

    def degraded(self, reason: str, *, remedy: str = "") -> None:  # noqa: ARG002 - as a Context has it
        raise RuntimeError(reason)

    def recovered(self) -> None: ...

    async def publish(self, event: Inference, *, privacy: Privacy) -> None:  # noqa: ARG002 - likewise
        self.events.append(event)
        if len(self.events) == self.wanted:
            self.done.set()


def make_videos(folder: Path, *, frames_each: int) -> list[str]:
    paths = []
    for number in range(4):
        path = folder / f"{number}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 2_000_000
            for _, encoded in frames(count=frames_each, seed=number):
                pixels = open_picture(encoded, max_pixels=1 << 26).pixels(WIDTH, HEIGHT)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
            container.mux(stream.encode())
        paths.append(str(path))
    return paths


def plain_loop(model: Model, session: Any, paths: list[str]) -> float:
    """Return milliseconds a frame of the same work, frame by frame from each file in turn."""
    spec, names = model.bundle.input, [output.name for output in session.get_outputs()]
    placement, count = place(WIDTH, HEIGHT, spec), 0
    start = time.perf_counter()
    with ExitStack() as stack:
        films = [stack.enter_context(av.open(path)).decode(video=0) for path in paths]
        for together in zip(*films, strict=True):
            for frame in together:
                size = {"width": placement.width, "height": placement.height}
                pixels = frame.reformat(**size, format="rgb24", interpolation="BILINEAR").to_ndarray()
                tensor = to_tensor(pixels, placement, spec)
                outputs = dict(zip(names, session.run(names, {spec.name: tensor}), strict=True))
                to_source(detect(outputs, model.bundle).boxes, placement).tolist()
                count += 1
    return (time.perf_counter() - start) * 1000 / count


async def by_service(model: Model, paths: list[str], *, wanted: int, folder: Path) -> tuple[float, float]:
    """Return milliseconds a frame of the service, and of its stage `infer`."""
    spec = {"kind": "video", "realtime": False, "fps": 1000.0, "publish": "all"}
    sources = [SourceConfig(name=f"s{n}", location=path, **spec) for n, path in enumerate(paths)]  # type: ignore[arg-type]
    sink = Sink(HailoInferenceConfig(sources=sources), folder, wanted)
    async with anyio.create_task_group() as tasks:
        roster = Roster([model], load=lambda _: model, roots=(), tasks=tasks)
        live = Live(cast("Context[HailoInferenceConfig]", sink), roster, Meters(sink.metrics))
        start = time.perf_counter()
        tasks.start_soon(live.run)
        with anyio.fail_after(300):
            await sink.done.wait()
        spent = (time.perf_counter() - start) * 1000 / wanted
        tasks.cancel_scope.cancel()
    return spent, statistics.fmean(event.stages_ms["infer"] for event in sink.events)


async def measure(rounds: int, count: int, threads: int) -> dict[str, Any]:
    model = open_models(HailoInferenceConfig(threads=threads))[0]
    session = bare_session(model, threads)
    spec = model.bundle.input
    black = np.zeros((1, 3, spec.height, spec.width), np.float32)

    def bare() -> float:
        start = time.perf_counter()
        for _ in range(count):
            session.run(None, {spec.name: black})
        return (time.perf_counter() - start) * 1000 / count

    rows: dict[str, list[dict[str, float]]] = {"one": [], "four": []}
    with tempfile.TemporaryDirectory() as folder:
        long, short = Path(folder) / "long", Path(folder) / "short"
        long.mkdir()
        short.mkdir()
        sets = {"one": make_videos(long, frames_each=count)[:1], "four": make_videos(short, frames_each=count // 4)}
        for number in range(rounds + 1):
            for name, paths in sets.items():
                alone = await anyio.to_thread.run_sync(bare)
                plain = await anyio.to_thread.run_sync(plain_loop, model, session, paths)
                service, infer = await by_service(model, paths, wanted=count, folder=Path(folder))
                if number:  # the first round warms up
                    rows[name].append({"bare": alone, "plain": plain, "service": service, "infer": infer})
    return {name: summary(of) for name, of in rows.items()} | {"target": TARGET, "rounds": rounds, "frames": count}


def summary(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return medians of milliseconds a frame, and of the ratios within each round."""
    medians = {f"{key}_ms": statistics.median(row[key] for row in rows) for key in rows[0]}
    service = statistics.median(row["service"] / row["plain"] for row in rows)
    infer = statistics.median(row["infer"] / row["bare"] for row in rows)
    return medians | {"service_ratio": service, "runtime_ratio": infer, "fps": 1000 / medians["service_ms"]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of live sources over the bare runtime.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    arguments = (options.rounds, options.frames, options.threads)
    result = anyio.run(measure, *arguments, backend_options={"use_uvloop": True})  # as the daemon runs it
    if options.json:
        json.dump(result, sys.stdout, indent=2)
        print()
        return
    for name in ("one", "four"):
        of = result[name]
        verdict = "met" if of["service_ratio"] <= TARGET else "MISSED"
        times = "  ".join(f"{key} {of[key + '_ms']:.2f}" for key in ("bare", "infer", "plain", "service"))
        print(f"{name:4}  ms a frame: {times}   ({of['fps']:.1f} frames/s)")
        print(f"      service / plain loop {of['service_ratio']:.3f}   target <= {TARGET}: {verdict}")
        print(f"      infer / bare         {of['runtime_ratio']:.3f}")


if __name__ == "__main__":
    main()

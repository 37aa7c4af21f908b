"""What the service adds to the bare runtime: ONNX Runtime in a loop against `hailo-inference`, in one run.

Baseline (bare): a thread of its own, an ONNX Runtime session with the options the service uses, `session.run` on
tensors made beforehand. Nothing else: no decoding, no preprocessing, no boxes.

Two questions, two ratios:

- *runtime*: the time of the stage `infer` within the service, that is the same `session.run` seen from inside, with
  its wrapper, against bare. Says whether threads, event loop and the other stages slow the runtime down.
- *service*: a whole `vision.infer` call at its handler (queue, thread, decode, preprocess, infer, postprocess, metrics)
  against a plain loop over the very same stages in one thread (decode, preprocess, `session.run`, postprocess). Says
  what the service itself costs. The target, at most 5 %, is for both.

The third figure, a whole call against the bare runtime, is no target but what a caller pays: decoding a PNG alone takes
half as long as the model. It stands here so that nobody mistakes the other two for it.

Rounds alternate, so that a busy machine slows both sides; each ratio is the median of the rounds' ratios.

    python benchmarks/inference.py [--rounds N] [--pictures N] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
import onnxruntime
from prometheus_client import CollectorRegistry

from sparkd import Inference
from sparkd_plugins.hailo_inference.config import HailoInferenceConfig
from sparkd_plugins.hailo_inference.demo import frames
from sparkd_plugins.hailo_inference.picture import open_picture
from sparkd_plugins.hailo_inference.pipeline import STAGES, Model, open_models
from sparkd_plugins.hailo_inference.postprocess import detect
from sparkd_plugins.hailo_inference.preprocess import place, to_source, to_tensor
from sparkd_plugins.hailo_inference.roster import Roster
from sparkd_plugins.hailo_inference.vision import Meters, VisionCalls

TARGET = 1.05


def bare_session(model: Model, threads: int) -> Any:
    """Open the model without any code of the service, with the same options."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(model.bundle.model_bytes(), options, providers=["CPUExecutionProvider"])


def tensor_of(model: Model, picture: bytes) -> np.ndarray:
    opened = open_picture(picture, max_pixels=model.max_pixels)
    placement = place(opened.width, opened.height, model.bundle.input)
    return to_tensor(opened.pixels(placement.width, placement.height), placement, model.bundle.input)


def plain_stages(model: Model, session: Any, picture: bytes) -> list[list[float]]:
    """The same work as a call, written as a plain function."""
    bundle = model.bundle
    opened = open_picture(picture, max_pixels=model.max_pixels)
    placement = place(opened.width, opened.height, bundle.input)
    tensor = to_tensor(opened.pixels(placement.width, placement.height), placement, bundle.input)
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, {bundle.input.name: tensor}), strict=True))
    boxes: list[list[float]] = to_source(detect(outputs, bundle).boxes, placement).tolist()
    return boxes


def timed(work: Callable[[Any], object], inputs: Sequence[Any]) -> float:
    """Return the mean milliseconds of *work* over *inputs*."""
    start = time.perf_counter()
    for item in inputs:
        work(item)
    return (time.perf_counter() - start) * 1000 / len(inputs)


async def measure(rounds: int, pictures: int, threads: int) -> dict[str, Any]:
    model = open_models(HailoInferenceConfig(threads=threads))[0]
    session = bare_session(model, threads)
    roster = Roster([model], load=lambda _: model, roots=(), tasks=anyio.create_task_group())
    calls = VisionCalls(roster, Meters(CollectorRegistry()), max_bytes=1 << 26)
    images = [frame for _, frame in frames(count=pictures, seed=11)]
    tensors = [tensor_of(model, image) for image in images]
    feed = model.bundle.input.name

    async def bare_loop() -> float:
        return await anyio.to_thread.run_sync(timed, lambda tensor: session.run(None, {feed: tensor}), tensors)

    async def stages_loop() -> float:
        return await anyio.to_thread.run_sync(timed, lambda image: plain_stages(model, session, image), images)

    async def calls_loop() -> tuple[float, list[Inference]]:
        start = time.perf_counter()
        answers = [await calls.infer(image=image) for image in images]
        return (time.perf_counter() - start) * 1000 / len(images), answers

    for warm_up in (bare_loop, stages_loop, calls_loop):
        await warm_up()
    rows = []
    for _ in range(rounds):
        bare, stages = await bare_loop(), await stages_loop()
        whole, answers = await calls_loop()
        spent = {stage: statistics.fmean(answer.stages_ms[stage] for answer in answers) for stage in STAGES}
        rows.append({"bare": bare, "stages": stages, "whole": whole, "spent": spent})
    return summary(rows, pictures=pictures, threads=threads)


def summary(rows: list[dict[str, Any]], *, pictures: int, threads: int) -> dict[str, Any]:
    """Return medians over the rounds: of milliseconds, and of the ratios within each round."""
    return {
        "bare_ms": statistics.median(row["bare"] for row in rows),
        "same_stages_in_a_loop_ms": statistics.median(row["stages"] for row in rows),
        "whole_call_ms": statistics.median(row["whole"] for row in rows),
        "stages_ms": {stage: statistics.median(row["spent"][stage] for row in rows) for stage in STAGES},
        "runtime_ratio": statistics.median(row["spent"]["infer"] / row["bare"] for row in rows),
        "service_ratio": statistics.median(row["whole"] / row["stages"] for row in rows),
        "whole_call_over_bare": statistics.median(row["whole"] / row["bare"] for row in rows),
        "target": TARGET,
        "rounds": len(rows),
        "pictures": pictures,
        "threads": threads,
        "onnxruntime": onnxruntime.__version__,
    }


def show(result: dict[str, Any]) -> None:
    stages = "  ".join(f"{stage} {milliseconds:.2f}" for stage, milliseconds in result["stages_ms"].items())
    print(f"bare onnxruntime in a loop        {result['bare_ms']:8.2f} ms a picture")
    print(f"the same stages in a plain loop   {result['same_stages_in_a_loop_ms']:8.2f} ms")
    print(f"vision.infer at its handler       {result['whole_call_ms']:8.2f} ms   ({stages})")
    for name, key in (
        ("runtime within the service / bare", "runtime_ratio"),
        ("service / same stages", "service_ratio"),
    ):
        verdict = "met" if result[key] <= result["target"] else "MISSED"
        print(f"{name:33} {result[key]:8.3f}   target <= {result['target']}: {verdict}")
    print(f"whole call / bare (no target)     {result['whole_call_over_bare']:8.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of the inference service over the bare runtime.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    arguments = (options.rounds, options.pictures, options.threads)
    result = anyio.run(measure, *arguments, backend_options={"use_uvloop": True})  # as the daemon runs it
    if options.json:
        json.dump(result, sys.stdout, indent=2)
        print()
    else:
        show(result)


if __name__ == "__main__":
    main()

"""Run the benchmarks one after the other, and print one table: what the design promises, and what was measured.

Each runs in a process of its own, as by hand; together they take about five minutes. The long runs (kills, backlog) are
`make soak`; their last kept results are shown here too, with the commit they were made at.

    python benchmarks/run.py [--only NAME ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LIMIT_S = 300
Result = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """One line of the table; *met* is None where nothing is promised."""

    what: str
    measured: str
    baseline: str
    target: str = ""
    met: bool | None = None


def bus(result: Result) -> Iterator[Line]:
    rate, ratio = result["events_per_s"], result["throughput_ratio"]
    yield Line(
        "bus: events a second",
        f"{rate['sparkd']:,} = {ratio:.2f} x",
        f"raw blocking pyzmq {rate['raw']:,}",
        f">= {result['throughput_target']} x",
        ratio >= result["throughput_target"],
    )
    for which in ("p50", "p99"):
        times, ratio = result[f"latency_{which}_us"], result[f"latency_{which}_ratio"]
        yield Line(
            f"bus: latency {which} at 1k msg/s",
            f"{times['sparkd']:.0f} us = {ratio:.2f} x",
            f"raw pyzmq {times['raw']:.0f} us (zmq.asyncio {times['zmq.asyncio']:.0f})",
            f"<= {result['latency_target']} x",
            ratio <= result["latency_target"],
        )


def calls(result: Result) -> Iterator[Line]:
    for what, name in (("core", "call p50: core method"), ("service", "call p50: method in a plugin's process")):
        found = result[what]
        yield Line(
            name,
            f"{found['p50_us']:.0f} us = {found['ratio']:.2f} x",
            f"asyncio JSON-line echo {result['echo']['p50_us']:.0f} us",
            f"<= {found['target']} x",
            found["met"],
        )


def idle(result: Result) -> Iterator[Line]:
    targets, met = result["targets"], result["met"]
    private = f" ({result['plugin_private_mb']:.1f} private)"
    for key, name, unit, more, baseline in (
        ("core_and_zygote_pss_mb", "idle: core + zygote, PSS", "MB", "", "Greengrass lite 16, Telegraf 70 (published)"),
        ("plugin_pss_mb", "idle: each plugin, PSS", "MB", private, ""),
        ("ready_s", "READY after start", "s", "", "Greengrass lite 1.7 s (published)"),
        ("back_s", "a killed plugin back", "s", "", ""),
    ):
        yield Line(name, f"{result[key]:.2f} {unit}{more}", baseline, f"<= {targets[key]:g} {unit}", met[key])


def outbox(result: Result) -> Iterator[Line]:
    found, target = result["batches"]["100"], result["target_at_100"]
    yield Line(
        "outbox: synced appends a second, batches of 100",
        f"{found['writer']:,} = {found['writer_to_plain_sqlite']:.2f} x",
        f"plain SQLite {found['plain_sqlite']:,}",
        f">= {target:,}",
        found["writer"] >= target,
    )


def inference(result: Result) -> Iterator[Line]:
    target = result["target"]
    for key, name, baseline in (
        ("runtime_ratio", "inference: runtime within the service", "bare onnxruntime in a loop"),
        ("service_ratio", "inference: whole call", "the same stages in a loop"),
    ):
        yield Line(name, f"{result[key]:.3f} x", baseline, f"<= {target} x", result[key] <= target)


def spawn(result: Result) -> Iterator[Line]:
    ours, theirs = result["zygote"], result["forkserver"]
    yield Line("a child's first byte, p50", f"{ours['p50_ms']} ms", f"multiprocessing forkserver {theirs['p50_ms']} ms")
    yield Line("ten children and server, PSS", f"{ours['all_pss_mib']} MiB", f"forkserver {theirs['all_pss_mib']} MiB")


def link(result: Result) -> Iterator[Line]:
    rate, times = result["events_per_s"], result["call_p50_us"]
    yield Line(
        "link: events a second",
        f"{rate['link']:,} = {result['events_ratio']} x",
        f"bare CURVE sockets {rate['bare']:,}",
    )
    yield Line(
        "link: call p50",
        f"{times['link']:.0f} us = {result['call_p50_ratio']} x",
        f"bare CURVE sockets {times['bare']:.0f} us",
    )


def shm(result: Result) -> Iterator[Line]:
    rate, p50 = result["mb_per_s"], result["latency_p50_ms"]
    yield Line(
        "pictures of 6.2 MB: MB/s",
        f"{rate['sparkd']:,} = {result['throughput_ratio']} x",
        f"raw pyzmq without its copies {rate['raw']:,}",
    )
    yield Line("the same: latency p50", f"{p50['sparkd']} ms = {result['latency_p50_ratio']} x", f"{p50['raw']} ms")


BENCHMARKS: dict[str, tuple[tuple[str, ...], Callable[[Result], Iterator[Line]]]] = {
    "bus": ((), bus),
    "calls": ((), calls),
    "outbox": ((), outbox),
    "inference": (("--json",), inference),
    "spawn": ((), spawn),
    "idle": ((), idle),
    "link": ((), link),
    "shm": ((), shm),
}


def run(name: str, arguments: tuple[str, ...]) -> Result:
    """Return what a benchmark printed. Raises CalledProcessError or TimeoutExpired."""
    command = [sys.executable, str(HERE / f"{name}.py"), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=LIMIT_S, check=True)
    result: Result = json.loads(done.stdout)
    return result


def kept() -> Iterator[Line]:
    """Yield the last result of each long run."""
    newest = {file.stem.rpartition("-")[2]: file for file in by_age((HERE / "results").glob("*.json"))}
    if file := newest.get("kills"):
        found = json.loads(file.read_text())
        yield Line(
            f"{found['kills']:,} kills at random (at {found['commit']})",
            f"{found['missing']} lost, {found['doubled']} doubled",
            "",
            "0; 0",
            found["met"],
        )
    if file := newest.get("steps"):
        found = json.loads(file.read_text())
        bad = sum(sum(step.values()) for step in found["steps"].values())
        name = f"a kill at each of {len(found['steps'])} steps (at {found['commit']})"
        yield Line(name, f"{bad} lost or doubled", "", "0", found["met"])
    if file := newest.get("backlog"):
        found = json.loads(file.read_text())
        peak = max(found["peak_mb"][name]["pss"] for name in ("edge", "edge cloud-uplink"))
        yield Line(
            f"drain of {found['bodies_mb'] / 1000:.1f} GB, largest edge process (at {found['commit']})",
            f"{peak} MB PSS",
            "",
            f"<= {found['target_peak_pss_mb']:g} MB",
            found["met"],
        )


def by_age(files: Iterator[Path]) -> list[Path]:
    return sorted(files, key=lambda file: json.loads(file.read_text())["date"])


def show(lines: list[Line]) -> None:
    rows = [("", "measured", "baseline", "target", "")]
    words = {True: "met", False: "MISSED", None: ""}
    rows += [(line.what, line.measured, line.baseline, line.target, words[line.met]) for line in lines]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what the design promises.")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the raw results there")
    options = parser.parse_args()
    load = ", ".join(f"{one:.2f}" for one in os.getloadavg())
    print(
        f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}, load before: {load}"
    )
    lines, raw, failed = list[Line](), dict[str, Result](), False
    for name in options.only or BENCHMARKS:
        arguments, read = BENCHMARKS[name]
        begun = time.monotonic()
        try:
            raw[name] = run(name, arguments)
            lines += read(raw[name])
        except (subprocess.SubprocessError, json.JSONDecodeError, KeyError) as error:
            failed = True
            lines.append(Line(name, f"failed: {error!r:.60}", "", "", met=False))
        print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    lines += kept()
    show(lines)
    if options.json:
        options.json.write_text(json.dumps({"lines": [asdict(line) for line in lines], "raw": raw}, indent=2) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

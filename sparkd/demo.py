"""`make demo`: an edge node and a cloud node on this machine, real photographs in, durable results out.

Two daemons of the same program run as they would on two machines, joined by an encrypted link on loopback. The edge
node runs a real detector on photographs that appear in a folder and samples this machine's vital signs; the cloud node
stores what arrives. Nothing outside a temporary folder is written.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sparkd.testing import Node, Pair, arrivals, descendants, drop, pictures, prepare, pss_bytes, running, short_folder
from sparkd.testing.pair import count_rows

FRAMES = 60
SEED = 20261122
FRAME_INTERVAL_S = 0.15
"""About seven pictures a second, which one core of a small machine can follow."""
ARRIVAL_LIMIT_S = 90.0
LOOK_INTERVAL_S = 0.2


def feed(pair: Pair, count: int, *, interval_s: float, progress: Progress) -> set[str]:
    """Put *count* distinct pictures into the watched folder, at a steady pace; return their names."""
    task, names = progress.add_task("pictures taken", total=count), set()
    for name, picture in pictures(count, SEED):
        drop(pair.watch, name, picture)
        names.add(name)
        progress.advance(task)
        time.sleep(interval_s)  # noqa: TID251 - the pace of a camera, in a plain script
    return names


def wait_for(pair: Pair, names: set[str], progress: Progress) -> list[tuple[str, int, int]]:
    """Wait until a result of each picture is stored, or the time limit; return what is stored."""
    task = progress.add_task("results in the cloud", total=len(names))
    deadline = time.monotonic() + ARRIVAL_LIMIT_S
    while True:
        rows = arrivals(pair.database)
        progress.update(task, completed=len({row[0] for row in rows} & names))
        if names <= {row[0] for row in rows} or time.monotonic() > deadline:
            return rows
        time.sleep(LOOK_INTERVAL_S)  # noqa: TID251 - shows progress from outside, as a person would look


def percentile(values: list[float], share: float) -> float:
    """Return the value below which *share* of *values* lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def report(console: Console, pair: Pair, names: set[str], rows: list[tuple[str, int, int]]) -> bool:
    """Print the table; return whether every picture's result is stored exactly once."""
    sources = [row[0] for row in rows]
    once = set(sources) == names and len(sources) == len(names)
    latencies = [(stored - taken) / 1e6 for _, taken, stored in rows if taken]
    table = Table(title="What happened", show_header=False)
    table.add_row("pictures seen", str(len(names)))
    table.add_row("results stored in the cloud", f"{len(rows)} ({'each exactly once' if once else 'NOT exactly once'})")
    table.add_row("telemetry rows", str(count_rows(pair.database, "device_metrics")))
    if latencies:
        shares = "  ".join(f"p{share * 100:.0f} {percentile(latencies, share):.0f} ms" for share in (0.5, 0.9, 0.99))
        table.add_row("from picture to stored row", shares)
    for node in (pair.edge, pair.cloud):
        for title, size in memory(node):
            table.add_row(f"memory of {title}", f"{size / 1e6:.1f} MB (PSS)")
    console.print(table)
    if not once:
        console.print(f"missing: {sorted(names - set(sources))[:5]}; {len(sources) - len(set(sources))} doubled")
    return once


def memory(node: Node) -> list[tuple[str, int]]:
    """Return (what, PSS in bytes) of each process of *node*."""
    if node.process is None:
        return []
    status: dict[str, Any] = node.call("node.status")
    names = {service["pid"]: service["name"] for service in status["services"] if service["pid"]}
    found = [(f"{node.name} core", pss_bytes(node.process.pid))]
    below = descendants(node.process.pid)
    return [*found, *((f"{node.name} {names.get(pid, 'zygote')}", pss_bytes(pid)) for pid in below)]


def lines_to_try(pair: Pair) -> str:
    """Return commands a person can type in another terminal."""
    ctl = Path(sys.executable).with_name("sparkctl")
    edge, cloud = shlex.quote(str(pair.edge.socket_path)), shlex.quote(str(pair.cloud.socket_path))
    return "\n".join(
        f"  {ctl} --socket {line}"
        for line in (
            f"{edge} status",
            f"{cloud} status",
            f"{edge} --node primecore status",
            f"{edge} sub edge.ai.inference",
            f"{edge} outbox",
            f"{cloud} call store.counts",
        )
    )


def main() -> int:
    """Run the demo. Exit code 0 if every result arrived exactly once, else 1."""
    parser = argparse.ArgumentParser(prog="sparkd.demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end by itself when all results have arrived")
    parser.add_argument("--frames", type=int, default=FRAMES, help="how many pictures (default: %(default)s)")
    options = parser.parse_args()
    console = Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with short_folder() as root:
        console.print(
            f"Two nodes of sparkd on this machine, in {root}: [b]control-pc[/b] (edge), [b]primecore[/b] (cloud)."
        )
        pair = prepare(root)
        try:
            with running(pair):
                console.print(f"Both are up. {pair.edge.status}")
                return _show(console, pair, frames=options.frames, once=options.once)
        except KeyboardInterrupt:
            console.print("Stopped.")
            return 0


def _show(console: Console, pair: Pair, *, frames: int, once: bool) -> int:
    columns = (TextColumn("{task.description:22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        names = feed(pair, frames, interval_s=FRAME_INTERVAL_S, progress=progress)
        rows = wait_for(pair, names, progress)
    complete = report(console, pair, names, rows)
    if once:
        return 0 if complete else 1
    console.print("Still running; drop pictures into", str(pair.watch), "and try in another terminal:")
    console.print(lines_to_try(pair), soft_wrap=True, highlight=False)
    console.print("Ctrl-C ends it.")
    while True:
        signal.pause()


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())

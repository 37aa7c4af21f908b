"""A chaos run from begin to end: traffic, faults, a quiet minute, the count."""

from __future__ import annotations

import random
import shutil
import threading  # noqa: TID251 - drives daemons from outside, with no loop of its own
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparkd.errors import CallError
from sparkd.testing.chaos.faults import CAUGHT_LIMIT_S, FAULTS, LASTS_S, WEIGHTS, Blow, Harm
from sparkd.testing.chaos.rig import Rig, left_behind, rigged, until
from sparkd.testing.chaos.watch import Records, Watch, names_in

COMMAND_EXPIRES_S = 86_400.0
"""More than all steps of the clock together."""
KEPT_OF_A_CRASH = Counter({"recorder/last-crash": 1})
"""What a core that comes after a crash leaves in the runtime folder on purpose, once."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long, how often, how long the quiet at the end."""

    seed: int
    faults: int | None = None
    """How many faults, each kind in turn; or:"""
    minutes: float | None = None
    """how long, each kind as often as `WEIGHTS` says."""
    pause_s: tuple[float, float] = (0.5, 4.0)
    quiet_s: float = 60.0
    look_every_s: float = 10.0
    record_pause_s: float = 0.04
    command_every_s: float = 2.0
    say: Callable[[str], None] = field(default=lambda _: None)


@dataclass
class Commands:
    """What was sent downward, and what became of it."""

    sent: list[tuple[str, str]] = field(default_factory=list)
    """Id, and what the command was to do."""
    states: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


@dataclass
class Outcome:
    """What a run came to; `broken` names each promise that was broken."""

    seconds: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)
    variants: dict[str, int] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    recovered_s: dict[str, dict[str, float]] = field(default_factory=dict)
    caught_s: dict[str, float] = field(default_factory=dict)
    daemon_starts: dict[str, int] = field(default_factory=dict)
    records: dict[str, int] = field(default_factory=dict)
    commands: dict[str, int] = field(default_factory=dict)
    growth: dict[str, dict[str, object]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


def run(root: Path, plan: Plan) -> Outcome:
    """Run two nodes beneath *root* as *plan* says; return what came of it. Their logs are left there."""
    outcome, blows = Outcome(), list[Blow]()
    begun = time.monotonic()
    with rigged(root, pause_s=plan.record_pause_s) as rig:
        if until(lambda: all(kept.whole() for kept in rig.nodes), limit_s=30) is None:
            outcome.broken.append("the nodes were not whole at the begin")
        files = {kept.side: names_in(kept.node.root / "run") for kept in rig.nodes}
        watch, commands = Watch(rig, Records(rig.pair.database)), Commands()
        with (
            _beside(lambda: _look(watch), plan.look_every_s),
            _beside(lambda: _send(rig, commands), plan.command_every_s),
        ):
            _do_harm(rig, plan, blows, outcome)
        _be_quiet(rig, plan, watch, commands, outcome)
        for kept in rig.nodes:
            extra = names_in(kept.node.root / "run") - files[kept.side] - KEPT_OF_A_CRASH
            outcome.broken += [f"{kept.side}: {count} file(s) {name} left in run/" for name, count in extra.items()]
        _stop(rig, watch, outcome)
        _tell(outcome, rig, blows, watch, commands)
    outcome.seconds = round(time.monotonic() - begun, 1)
    return outcome


def _do_harm(rig: Rig, plan: Plan, blows: list[Blow], outcome: Outcome) -> None:
    """Deal blow after blow; end those that last when their time has come, and all at the end."""
    chance = random.Random(plan.seed)
    harm, due, begun = Harm(rig, chance), list[tuple[float, Blow]](), time.monotonic()
    outcome.skipped = [kind for kind in FAULTS if kind not in harm.kinds()]
    for kind in _deck(harm, plan, begun):
        half = plan.minutes is not None and time.monotonic() - begun > plan.minutes * 30
        harm.spared = "" if plan.minutes is None else ("edge" if half else "cloud")
        blow = FAULTS[kind](harm)
        blows.append(blow)
        plan.say(f"{time.monotonic() - rig.begun:8.1f} {kind}: {blow.victim} {_took(blow)}")
        if blow.end is not None:
            due.append((time.monotonic() + chance.uniform(*LASTS_S[kind]), blow))
            harm.lasting.add(kind)
        due = _end_due(harm, due, until_s=time.monotonic() + chance.uniform(*plan.pause_s))
    _end_due(harm, due, until_s=float("inf"))
    for kept in rig.nodes:
        kept.set_clock(0)


def _deck(harm: Harm, plan: Plan, begun: float) -> Iterator[str]:
    """Yield kinds of faults: shuffled decks, until the plan is done."""
    dealt = 0
    while True:
        deck = [kind for kind in harm.kinds() for _ in range(1 if plan.minutes is None else WEIGHTS[kind])]
        harm.chance.shuffle(deck)
        for kind in deck:
            if plan.minutes is None and dealt >= (plan.faults or 0):
                return
            if plan.minutes is not None and time.monotonic() - begun >= plan.minutes * 60:
                return
            dealt += 1
            yield kind


def _end_due(harm: Harm, due: list[tuple[float, Blow]], *, until_s: float) -> list[tuple[float, Blow]]:
    """Wait until *until_s*, or if that is never, until none is left; end in time what lasts; return what goes on."""
    while due or until_s != float("inf"):
        now = time.monotonic()
        for when, blow in list(due):
            if when <= now and blow.end is not None:
                blow.end()
                due = [other for other in due if other[1] is not blow]
        harm.lasting = {blow.kind for _, blow in due}
        if now >= until_s:
            break
        time.sleep(min(0.1, max(0.0, until_s - now)))  # noqa: TID251 - the pause between two faults
    return due


def _took(blow: Blow) -> str:
    parts = [f"caught {blow.caught_s:.2f} s" if blow.caught_s is not None else ""]
    parts += [f"back {blow.recovered_s:.2f} s" if blow.recovered_s is not None else "", blow.trouble]
    return ", ".join(part for part in parts if part)


@contextmanager
def _beside(deed: Callable[[], None], every_s: float) -> Iterator[None]:
    """Do *deed* again and again in a thread of its own; raises at the end what it raised."""
    over, failed = threading.Event(), list[BaseException]()

    def go_on() -> None:
        while not over.wait(every_s):
            try:
                deed()
            except BaseException as error:  # noqa: BLE001 - kept for the thread that waits for this one
                failed.append(error)
                return

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if failed:
        raise failed[0]


def _look(watch: Watch) -> None:
    try:
        watch.look()
    except OSError:  # a process went in the midst of it: the next look is soon
        return


def _send(rig: Rig, commands: Commands) -> None:
    what = f"c{len(commands.sent)}-{time.monotonic_ns()}"
    try:
        given: dict[str, Any] = {"target": rig.edge.node.name, "method": "hand.do", "params": {"what": what}}
        command = rig.cloud.node.call("commands.send", **given, expires_s=COMMAND_EXPIRES_S, timeout_s=5.0)
    except (OSError, CallError):  # not acknowledged: it may or may not be carried out, once at the most
        return
    commands.sent.append((command, what))


def _be_quiet(rig: Rig, plan: Plan, watch: Watch, commands: Commands, outcome: Outcome) -> None:
    """Let everything come to rest; then count, and look that all is well."""
    whole = until(lambda: all(kept.whole() for kept in rig.nodes), limit_s=max(plan.quiet_s, 30.0))
    if whole is None:
        outcome.broken.append(f"not whole after the last fault: {_not_running(rig)}")
    until(lambda: _arrived(rig, watch), limit_s=max(plan.quiet_s, 60.0))
    _settle_commands(rig, commands)
    ends = time.monotonic() + plan.quiet_s
    while time.monotonic() < ends:
        _look(watch)
        time.sleep(min(plan.look_every_s, plan.quiet_s))  # noqa: TID251 - the quiet minute itself
    if not all(kept.whole() for kept in rig.nodes):
        outcome.broken.append(f"not whole after the quiet: {_not_running(rig)}")
    strangers = {f"{kept.side} {s['name']}" for kept in rig.nodes for s in kept.status().get("services", ())}
    outcome.broken += [f"still listed: {name}" for name in sorted(strangers) if "broken-" in name]


def _not_running(rig: Rig) -> str:
    found = [(kept.side, s) for kept in rig.nodes for s in kept.services().values() if s["state"] != "running"]
    return "; ".join(f"{side} {s['name']} {s['state']}: {s['reason']}" for side, s in found) or "a node does not answer"


def _arrived(rig: Rig, watch: Watch) -> bool:
    acknowledged = rig.acknowledged
    watch.records.look()
    return not watch.records.missing(acknowledged)


def _settle_commands(rig: Rig, commands: Commands) -> None:
    """Wait until each command has come to its end, and hold that against what was carried out."""
    done = Counter[str]()
    for command, what in commands.sent:
        final: dict[str, Any] = {}

        def ended(command: str = command, final: dict[str, Any] = final) -> bool:
            try:
                final.update(rig.cloud.node.call("commands.status", command_id=command))
            except (OSError, CallError):
                return False
            return final["state"] not in ("pending", "delivered")

        until(ended, limit_s=60.0)
        state = final.get("state", "unknown")
        commands.states[state] += 1
        done = done or Counter(rig.done())
        times = Counter(rig.done())[what] if state == "done" and not done[what] else done[what]
        if times > 1 or (state == "done" and times != 1) or state not in ("done", "failed"):
            commands.wrong.append(f"command {command}: {state}, carried out {times} times: {final.get('error', '')}")
    commands.wrong += [f"{what} carried out {times} times" for what, times in Counter(rig.done()).items() if times > 1]


def _stop(rig: Rig, watch: Watch, outcome: Outcome) -> None:
    """End the traffic, then both daemons as systemd would; nothing of them may be left."""
    (rig.edge.node.plugins / "counter.py").unlink()
    until(lambda: "counter" not in rig.edge.services(), limit_s=10.0)
    until(lambda: _arrived(rig, watch), limit_s=60.0)
    for kept in rig.nodes:
        kept.retired = True
        code = kept.node.stop()
        if code != 0:
            outcome.broken.append(f"{kept.side} ended with {code} when it was told to stop")
    if until(lambda: not left_behind(rig.tag), limit_s=5.0) is None:
        outcome.broken.append(f"processes left behind: {left_behind(rig.tag)}")


def _tell(outcome: Outcome, rig: Rig, blows: list[Blow], watch: Watch, commands: Commands) -> None:
    """Put together what the run came to."""
    watch.records.look()
    acknowledged, records = rig.acknowledged, watch.records
    missing, repeated = records.missing(acknowledged), records.repeated()
    outcome.faults = dict(Counter(blow.kind for blow in blows))
    outcome.variants = dict(sorted(Counter(f"{blow.kind}: {blow.victim}" for blow in blows).items()))
    outcome.recovered_s = _by_kind(blows)
    outcome.caught_s = _spread([blow.caught_s for blow in blows if blow.caught_s is not None])
    outcome.daemon_starts = {kept.side: kept.starts for kept in rig.nodes}
    outcome.records = {
        "acknowledged": acknowledged,
        "stored": records.seen.total(),
        "missing": len(missing),
        "doubled": len(repeated),
        "refused_by_the_sink": records.doubled,
        "strange": records.strange + sum(number > acknowledged + 1 for number in records.seen),
    }
    outcome.commands = {"sent": len(commands.sent), **commands.states, "carried_out": len(rig.done())}
    outcome.growth = watch.growth()
    outcome.broken += [f"{d.node} core ended with {d.code} at {d.seconds:.0f} s: {d.last_words}" for d in rig.deaths]
    outcome.broken += [f"{blow.kind} of {blow.victim}: {blow.trouble}" for blow in blows if blow.trouble]
    late = [b for b in blows if b.caught_s is not None and b.caught_s > CAUGHT_LIMIT_S]
    outcome.broken += [f"{b.victim} caught after {b.caught_s:.2f} s, limit {CAUGHT_LIMIT_S:g} s" for b in late]
    counted = {name: outcome.records[name] for name in ("missing", "doubled", "refused_by_the_sink", "strange")}
    outcome.broken += [f"{count} records {name}" for name, count in counted.items() if count]
    outcome.broken += commands.wrong
    outcome.broken += [f"orphan: {line}" for line in watch.orphans]
    outcome.broken += [f"{role} grew: {grown}" for role, grown in outcome.growth.items() if not grown["flat"]]


def _by_kind(blows: list[Blow]) -> dict[str, dict[str, float]]:
    times = defaultdict[str, list[float]](list)
    for blow in blows:
        if blow.recovered_s is not None:
            times[blow.kind].append(blow.recovered_s)
    return {kind: _spread(found) for kind, found in sorted(times.items())}


def _spread(values: list[float]) -> dict[str, float]:
    """Return how many, the median, the 99th percentile and the most."""
    if not values:
        return {}
    ranked = sorted(values)
    at = {"p50": ranked[len(ranked) // 2], "p99": ranked[min(len(ranked) - 1, len(ranked) * 99 // 100)]}
    return {"count": len(ranked), **{name: round(value, 3) for name, value in {**at, "max": ranked[-1]}.items()}}


def keep_logs(root: Path, folder: Path) -> None:
    """Copy the daemons' logs from *root* to *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    for side in ("e", "c"):
        log = root / side / "log"
        if log.exists():
            shutil.copy(log, folder / f"{'edge' if side == 'e' else 'cloud'}.log")

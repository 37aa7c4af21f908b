"""Where the time of an utterance went: the stages as they are published and counted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Histogram

from sparkd import Stage

BUCKETS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


@dataclass(slots=True)
class Attempt:
    """A stage under way: whoever does it says how it came out."""

    name: str
    by: str = ""
    outcome: str = "ok"
    problem: str = ""

    def failed(self, outcome: str, problem: object = "") -> None:
        """Note that it came to nothing, and why."""
        self.outcome, self.problem = outcome, str(problem)[:300]


@dataclass(slots=True)
class Trace:
    """The stages of one utterance; `began` is when the wake word was heard (`time.monotonic`, seconds)."""

    began: float
    stages: list[Stage] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str, *, by: str = "", since: float | None = None) -> Iterator[Attempt]:
        """Time what is done within, from *since* if given. Cancelled is `interrupted`, raised is `failed`."""
        attempt, begin = Attempt(name, by), since if since is not None else time.monotonic()
        done = False
        try:
            yield attempt
            done = True
        except Exception as error:
            attempt.failed("failed", error)
            done = True
            raise
        finally:
            if not done:
                attempt.outcome = "interrupted"
            self.add(attempt, begin, time.monotonic())

    def add(self, attempt: Attempt, begin: float, end: float) -> None:
        """Add a stage that lasted from *begin* to *end*."""
        stage = Stage(
            name=attempt.name,
            outcome=attempt.outcome,
            started_ms=round(max(0.0, begin - self.began) * 1000, 1),
            took_ms=round(max(0.0, end - begin) * 1000, 1),
            by=attempt.by,
            problem=attempt.problem,
        )
        self.stages.append(stage)


class TraceMetrics:
    """What is counted of all utterances."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the metrics in *registry*."""
        self._utterances = Counter("sparkd_voice_utterances", "Utterances by outcome", ["outcome"], registry=registry)
        self._stages = Histogram(
            "sparkd_voice_stage_seconds",
            "Time of the stages of utterances",
            ["stage", "outcome"],
            registry=registry,
            buckets=BUCKETS_S,
        )
        self._first = Histogram(
            "sparkd_voice_first_audio_seconds",
            "From the end of an utterance to the first sound of the answer",
            registry=registry,
            buckets=BUCKETS_S,
        )

    def count(self, outcome: str, stages: list[Stage], first_audio_ms: float | None) -> None:
        """Count an utterance."""
        self._utterances.labels(outcome).inc()
        for stage in stages:
            self._stages.labels(stage.name, stage.outcome).observe(stage.took_ms / 1000)
        if first_audio_ms is not None:
            self._first.observe(first_audio_ms / 1000)

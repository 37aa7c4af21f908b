"""The states of a service, and every legal change between them: a table, part of the status contract.

Everything that decides which state follows which lives here; who decides *when* is `sparkd.supervisor`.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """The state of a service, part of the status contract."""

    DISABLED = "disabled"
    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    DEGRADED = "degraded"
    BACKOFF = "backoff"
    BROKEN = "broken"
    SHED = "shed"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Cue(StrEnum):
    """What happened to a service: the input of the state table."""

    START = "start"  # asked for, or its turn to retry has come
    READY = "ready"  # it called `started()`
    DEGRADE = "degrade"  # it says it runs with less than it wants
    RECOVER = "recover"
    FAIL = "fail"  # it ended by itself or missed its start limit
    GIVE_UP = "give-up"  # it failed too often
    FINISH = "finish"  # it returned: its work is done
    MISS = "miss"  # something it needs is not there
    SHED = "shed"
    STOP = "stop"
    STOPPED = "stopped"
    DISABLE = "disable"


TRANSITIONS: dict[State, dict[Cue, State]] = {
    State.DISABLED: {Cue.START: State.STARTING, Cue.MISS: State.WAITING, Cue.STOP: State.STOPPED},
    State.WAITING: {
        Cue.START: State.STARTING,
        Cue.MISS: State.WAITING,
        Cue.STOP: State.STOPPED,
        Cue.SHED: State.SHED,
        Cue.DISABLE: State.DISABLED,
        Cue.GIVE_UP: State.BROKEN,
    },
    State.STARTING: {
        Cue.READY: State.RUNNING,
        Cue.FAIL: State.BACKOFF,
        Cue.GIVE_UP: State.BROKEN,
        Cue.FINISH: State.STOPPED,
        Cue.MISS: State.WAITING,
        Cue.STOP: State.STOPPING,
        Cue.SHED: State.STOPPING,
    },
    State.RUNNING: {
        Cue.DEGRADE: State.DEGRADED,
        Cue.RECOVER: State.RUNNING,
        Cue.FAIL: State.BACKOFF,
        Cue.GIVE_UP: State.BROKEN,
        Cue.FINISH: State.STOPPED,
        Cue.MISS: State.WAITING,
        Cue.STOP: State.STOPPING,
        Cue.SHED: State.STOPPING,
    },
    State.DEGRADED: {
        Cue.RECOVER: State.RUNNING,
        Cue.DEGRADE: State.DEGRADED,
        Cue.FAIL: State.BACKOFF,
        Cue.GIVE_UP: State.BROKEN,
        Cue.FINISH: State.STOPPED,
        Cue.MISS: State.WAITING,
        Cue.STOP: State.STOPPING,
        Cue.SHED: State.STOPPING,
    },
    State.BACKOFF: {
        Cue.START: State.STARTING,
        Cue.MISS: State.WAITING,
        Cue.STOP: State.STOPPED,
        Cue.SHED: State.SHED,
        Cue.DISABLE: State.DISABLED,
        Cue.GIVE_UP: State.BROKEN,
    },
    State.BROKEN: {
        Cue.START: State.STARTING,
        Cue.MISS: State.WAITING,
        Cue.GIVE_UP: State.BROKEN,
        Cue.STOP: State.STOPPED,
        Cue.SHED: State.SHED,
        Cue.DISABLE: State.DISABLED,
    },
    State.SHED: {
        Cue.START: State.STARTING,
        Cue.MISS: State.WAITING,
        Cue.STOP: State.STOPPED,
        Cue.DISABLE: State.DISABLED,
    },
    State.STOPPING: {Cue.STOPPED: State.STOPPED, Cue.SHED: State.SHED, Cue.DISABLE: State.DISABLED},
    State.STOPPED: {
        Cue.START: State.STARTING,
        Cue.MISS: State.WAITING,
        Cue.STOP: State.STOPPED,
        Cue.SHED: State.SHED,
        Cue.DISABLE: State.DISABLED,
        Cue.GIVE_UP: State.BROKEN,
    },
}
"""Every legal change of state; README's table is generated from it."""


def transition(state: State, cue: Cue) -> State:
    """Return the state that follows *state* after *cue*. Raises ValueError for a change the table does not have."""
    try:
        return TRANSITIONS[state][cue]
    except KeyError:
        raise ValueError(f"a service in state {state} cannot take the cue {cue}") from None

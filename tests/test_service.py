from __future__ import annotations

import anyio.abc
import pytest

from sparkd import Context, NoConfig, Service, State
from sparkd.states import TRANSITIONS, Cue, transition


async def run(ctx: Context[NoConfig], *, task_status: anyio.abc.TaskStatus[None]) -> None:
    task_status.started()


def test_every_state_stands_in_the_table_and_can_be_left_and_reached() -> None:
    reached = {State.DISABLED, State.STOPPED} | {to for row in TRANSITIONS.values() for to in row.values()}

    assert set(TRANSITIONS) == set(State)
    assert reached == set(State)


def test_a_service_can_be_stopped_from_every_state() -> None:
    for state in State:
        ends = {state}
        for _ in State:
            ends |= {TRANSITIONS[s][cue] for s in ends for cue in (Cue.STOP, Cue.STOPPED) if cue in TRANSITIONS[s]}
        assert ends & {State.STOPPED, State.DISABLED}, state


def test_an_illegal_change_names_state_and_cue() -> None:
    with pytest.raises(ValueError, match="state disabled cannot take the cue ready"):
        transition(State.DISABLED, Cue.READY)


@pytest.mark.parametrize("name", ["", "Power", "power_monitor", "-a", "a--b", "a/b", "ä"])
def test_a_malformed_service_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="lower-case words joined by hyphens"):
        Service(name=name, config=NoConfig, run=run)

"""vpn-watchdog in the lab: each fault found in time, called by its name, mended where it can be; and a healthy run.

They take minutes and mostly wait, so they run side by side: a few at a time, each in a lab of its own, and the healthy
run beside them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.netlab import faults
from tests.netlab.ends import in_kernel
from tests.netlab.faults import FAULTS
from tests.netlab.spaces import require_rig, sweep

pytestmark = pytest.mark.slow
AT_ONCE = 3
HEALTHY_S = 300.0
BY_NAME = {scenario.__name__: scenario for scenario in FAULTS}
Runs = dict[str, "Future[dict[str, float]]"]


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[Runs]:
    """Begin all that was asked for."""
    require_rig()
    sweep()
    in_kernel()
    asked = [item.name for item in request.session.items if item.path == request.path]
    with ThreadPoolExecutor(AT_ONCE + 1) as pool:
        begun: Runs = {}
        if any(name.startswith("test_a_healthy") for name in asked):
            begun["healthy"] = pool.submit(faults.healthy, HEALTHY_S)
        for name, scenario in BY_NAME.items():
            if any(f"[{name}]" in one for one in asked):
                begun[name] = pool.submit(scenario)
        faults.over.clear()
        yield begun
        faults.over.set()
        for one in begun.values():
            one.cancel()


@pytest.mark.timeout(360)
@pytest.mark.parametrize("fault", BY_NAME)
def test_a_fault_is_found_named_and_mended(
    runs: Runs, fault: str, record_property: Callable[[str, object], None]
) -> None:
    for what, seconds in runs[fault].result().items():
        print(f"{fault}: {what} after {seconds:g} s")  # noqa: T201 - pytest -rP shows it
        record_property(f"{fault}: {what}", seconds)


@pytest.mark.timeout(400)
def test_a_healthy_run_sees_not_one_repair(runs: Runs) -> None:
    runs["healthy"].result()

from __future__ import annotations

import anyio
import pytest

from sparkd_plugins.cloud_uplink.settings import CloudUplinkConfig
from sparkd_plugins.cloud_uplink.thrift import Thrift

pytestmark = pytest.mark.anyio


async def test_history_waits_while_power_is_short_and_goes_on_after() -> None:
    thrift = Thrift(("low", "critical"))
    await thrift.history()
    assert thrift.take("low")
    assert not thrift.take("critical")
    with anyio.move_on_after(0.05) as waited:
        await thrift.history()
    assert waited.cancelled_caught

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(thrift.history)
        assert thrift.take("on-grid")
    assert not thrift.take("off-grid")


def test_a_mode_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="history_waits_in: one of on-grid"):
        CloudUplinkConfig(target="cloud", history_waits_in=("dark",))

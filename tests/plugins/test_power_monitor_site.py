from __future__ import annotations

from sparkd_plugins.power_monitor.modes import Mode
from sparkd_plugins.power_monitor.site import Site


def test_the_worst_that_is_said_counts() -> None:
    site = Site(300.0)
    for node, mode in (("nas", "on-grid"), ("control-pc", "low"), ("agent", "unknown")):
        assert site.hear(node, mode, 0.0)

    assert site.mode(1.0) == (Mode.LOW, "control-pc")
    site.hear("control-pc", "on-grid", 2.0)
    assert site.mode(3.0)[0] is Mode.ON_GRID


def test_an_old_word_counts_no_more() -> None:
    site = Site(300.0)
    site.hear("nas", "off-grid", 0.0)

    assert site.due(10.0) == 300.0
    assert site.mode(300.0) == (Mode.OFF_GRID, "nas")
    assert site.mode(301.0) == (Mode.UNKNOWN, "")
    assert site.due(301.0) is None


def test_what_is_no_mode_is_refused() -> None:
    site = Site(300.0)

    assert not site.hear("nas", "plenty", 0.0)
    assert site.mode(0.0) == (Mode.UNKNOWN, "")

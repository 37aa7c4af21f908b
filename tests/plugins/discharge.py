"""A day's cut of the mains as a recording: a battery of 90 Wh, a node of 10 to 14 W, six hours from full to 4 %."""

from __future__ import annotations

import math
import random

EVERY_S = 10
CAPACITY_WH = 90.0


def six_hours(seed: int = 11, *, more_s: int = 600) -> str:
    """Return the recording: ten minutes on the mains, six hours without, *more_s* after they are back."""
    noise = random.Random(seed)
    rows = ["t_s,mains,charge_percent,battery_volts,load_watts,capacity_wh"]
    charge = 100.0
    for at_s in range(0, 600 + 6 * 3600 + more_s, EVERY_S):
        mains = not 600 <= at_s < 600 + 6 * 3600
        watts = 14.4 + 1.5 * math.sin(at_s / 900) + noise.gauss(0, 0.2)
        charge = min(charge + 0.1, 100.0) if mains else charge - watts * EVERY_S / 3600 / CAPACITY_WH * 100
        volts = 3.2 + charge / 100 + noise.gauss(0, 0.005)
        rows.append(f"{at_s},{int(mains)},{charge:.2f},{volts:.3f},{watts:.2f},{CAPACITY_WH}")
    return "\n".join(rows) + "\n"

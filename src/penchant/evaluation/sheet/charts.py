"""The data sheet's drawings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from penchant.evaluation import charts
from penchant.evaluation.sheet.events import Periods

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 290, 58, 14, 46, 44
LABEL_ROWS = 3


def rank_curve(points: Sequence[tuple[int, int]], title: str, below: str) -> Markup:
    """(rank, count) on two logarithmic axes."""
    wide = max(math.log10(points[-1][0]), 1e-9)
    tall = max(math.ceil(math.log10(points[0][1])), 1)

    def px(rank: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log10(rank) / wide

    def py(count: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * math.log10(count) / tall

    out = [charts.text(0, 14, "events", "t-tick")]
    for power in range(tall + 1):
        out.append(charts.line(LEFT, py(10**power), WIDTH - RIGHT, py(10**power), "grid"))
        out.append(charts.text(LEFT - 8, py(10**power) + 4, _short(10**power), "t-tick", "end"))
    for power in range(math.floor(wide) + 1):
        out.append(charts.text(px(10**power), HEIGHT - BOTTOM + 19, _short(10**power), "t-tick", "middle"))
    out.append(charts.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, below, "t-tick", "middle"))
    path = " ".join(f"{px(rank):.1f},{py(count):.1f}" for rank, count in points)
    floor = HEIGHT - BOTTOM
    area = f"{px(points[0][0]):.1f},{floor} {path} {px(points[-1][0]):.1f},{floor}"
    out.append(Markup('<polygon points="{}" class="area"/>').format(area))
    out.append(Markup('<polyline points="{}" class="line bold" style="stroke:var(--kept)"/>').format(path))
    return charts.svg(WIDTH, HEIGHT, title, "curve", out)


def period_bars(periods: Periods, cuts: Sequence[tuple[int, str]], title: str) -> Markup:
    """A bar for each period; a dashed line where a window of a split starts.

    Args:
        cuts: (time in milliseconds, the window's name), in order of time.
    """
    n, high = len(periods.counts), charts.round_up(float(periods.counts.max()))
    step = (WIDTH - LEFT - RIGHT) / n
    floor = HEIGHT - BOTTOM
    scale = (floor - TOP) / high
    names = periods.starts_ms.astype("datetime64[ms]").astype(f"datetime64[{periods.unit}]").astype(str)
    out = []
    for i in range(5):
        y = floor - (floor - TOP) * i / 4
        out.append(charts.line(LEFT, y, WIDTH - RIGHT, y, "grid"))
        out.append(charts.text(LEFT - 8, y + 4, _short(high * i / 4), "t-tick", "end"))
    gap = min(step / 5, 2)
    for i, count in enumerate(periods.counts.tolist()):
        shape = Markup(
            '<rect x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}" class="bar"><title>{}: {:,}</title></rect>'
        )
        height = max(count * scale, 0.75) if count else 0
        out.append(shape.format(LEFT + i * step, floor - height, step - gap, height, names[i], count))
    for place, anchor in ((0, "start"), (n // 2, "middle"), (n - 1, "end")) if n > 2 else ((0, "start"),):
        x = {"start": LEFT, "middle": LEFT + (place + 0.5) * step, "end": WIDTH - RIGHT}[anchor]
        out.append(charts.text(x, floor + 19, names[place], "t-tick", anchor))
    free = [-math.inf] * LABEL_ROWS
    for time_ms, window in cuts:
        x = LEFT + step * float(np.interp(time_ms, periods.starts_ms, np.arange(n + 1)))
        # The cuts of a log that thins out lie close together: each label goes to the first row with room for it.
        row = next((row for row, end in enumerate(free) if x > end), LABEL_ROWS - 1)
        free[row] = x + 11 * len(window)
        flipped = x > WIDTH - 60
        out.append(charts.line(x, 14 * row + 4, x, floor, "mark"))
        anchor = "end" if flipped else "start"
        out.append(charts.text(x - 4 if flipped else x + 4, 14 * row + 13, window, "t-tick", anchor))
    return charts.svg(WIDTH, HEIGHT, title, "curve", out)


def _short(value: float) -> str:
    """1,500 as 1.5k"""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g}{letter}"
    return f"{value:.3g}"

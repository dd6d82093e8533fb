"""What the pages' small drawings are made of: SVG as text, coloured by the page's own CSS variables for dark mode.

Text is escaped by `Markup.format`. Lengths are SVG user units: CSS pixels where the drawing has its own width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

NUM_COLOURS = 8


def colour(index: int) -> str:
    """CSS colour of the `index`-th of several things."""
    return f"var(--c{index % NUM_COLOURS})"


def round_up(value: float) -> float:
    """The next round number whose quarters are round too."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return min((m * power for m in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if m * power >= value), default=10 * power)


def svg(width: float, height: float, title: str, css: str, content: Sequence[Markup]) -> Markup:
    shape = Markup(
        '<svg viewBox="0 0 {:g} {:g}" width="{:g}" height="{:g}" class="{}" role="img"><title>{}</title>{}</svg>'
    )
    return shape.format(width, height, width, height, css, title, Markup("").join(content))


def box(x: float, y: float, width: float, height: float, css: str) -> Markup:
    shape = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="2" class="{}"/>')
    return shape.format(x, y, width, height, css)


def line(x0: float, y0: float, x1: float, y1: float, css: str) -> Markup:
    shape = Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>')
    return shape.format(x0, y0, x1, y1, css)


def text(x: float, y: float, text: str, css: str, anchor: str = "start") -> Markup:
    shape = Markup('<text x="{:.1f}" y="{:.1f}" class="{}" text-anchor="{}">{}</text>')
    return shape.format(x, y, css, anchor, text)

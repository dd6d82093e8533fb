"""The diagnostics page's drawings: spectra, hubness curves, attention as small heat maps."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from markupsafe import Markup
from PIL import Image

from penchant.evaluation import charts

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 300, 58, 14, 28, 44
MAP, CELL = 176, 15
"""Sides of a drawn attention map, and of a head's square in a grid of them."""
POINTS = 200
"""Most points of a line: more would not be seen."""
INK = (44, 108, 179)
"""Colour of a weight of one; less is more transparent, so that a map reads on a dark page too."""


@dataclass(frozen=True)
class Curve:
    """One line: y at x = 1, 2, .., its CSS colour, and whether it is dashed."""

    y: np.ndarray
    stroke: str
    dashed: bool = False


def log_curves(curves: Sequence[Curve], title: str, below: str, beside: str, *, floor: float) -> Markup:
    """Lines over ranks, both axes logarithmic.

    Args:
        floor: the smallest value shown; what is below it is drawn on it.
    """
    longest = max(len(curve.y) for curve in curves)
    highest = max(float(curve.y.max(initial=floor)) for curve in curves)
    wide = math.log10(max(longest, 2))
    low, high = math.log10(floor), max(math.ceil(math.log10(max(highest, floor)) - 1e-9), 0)
    high = max(high, math.floor(low) + 1)

    def px(rank: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log10(rank) / wide

    def py(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (math.log10(max(value, floor)) - low) / (high - low)

    out = [charts.text(0, 10, beside, "t-tick")]
    for power in range(math.ceil(low - 1e-9), high + 1):
        out.append(charts.line(LEFT, py(10.0**power), WIDTH - RIGHT, py(10.0**power), "grid"))
        out.append(charts.text(LEFT - 8, py(10.0**power) + 4, f"{10.0**power:g}", "t-tick", "end"))
    for power in range(math.floor(wide) + 1):
        out.append(charts.text(px(10**power), HEIGHT - BOTTOM + 19, f"{10**power:,}", "t-tick", "middle"))
    out.append(charts.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, below, "t-tick", "middle"))
    for curve in curves:
        # As many points to each stretch of the logarithmic axis.
        ranks = np.unique(np.geomspace(1, len(curve.y), POINTS).round().astype(int))
        path = " ".join(f"{px(rank):.1f},{py(float(curve.y[rank - 1])):.1f}" for rank in ranks.tolist())
        kind = "line dashed" if curve.dashed else "line"
        out.append(Markup('<polyline points="{}" class="{}" style="stroke:{}"/>').format(path, kind, curve.stroke))
    return charts.svg(WIDTH, HEIGHT, title, "curve", out)


def attention_map(weights: Float[np.ndarray, "L K"], title: str) -> Markup:
    """Queries from the top, keys from the left; the darker, the more weight.

    Opacity is the square root of the weight: most weights are small, and would not be seen.
    """
    pixels = np.zeros((*weights.shape, 4), dtype=np.uint8)
    pixels[..., :3] = INK
    pixels[..., 3] = np.rint(255 * np.sqrt(np.clip(weights, 0, 1)))
    return _picture(pixels, title, MAP, MAP)


def head_grid(values: Float[np.ndarray, "L H"], title: str) -> Markup:
    """A number from 0 to 1 of each layer (from the top) and head (from the left), the darker the nearer to one."""
    pixels = np.zeros((*values.shape, 4), dtype=np.uint8)
    pixels[..., :3] = INK
    pixels[..., 3] = np.rint(255 * np.clip(values, 0, 1))
    return _picture(pixels, title, CELL * values.shape[1], CELL * values.shape[0])


def _picture(pixels: np.ndarray, title: str, width: int, height: int) -> Markup:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    shape = Markup('<img class="map" width="{}" height="{}" alt="{}" title="{}" src="data:image/png;base64,{}">')
    return shape.format(width, height, title, title, data)

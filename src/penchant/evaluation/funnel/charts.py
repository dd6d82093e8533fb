"""The funnel report's drawings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from penchant.evaluation import charts
from penchant.evaluation.funnel.report import Interval


@dataclass(frozen=True)
class FlowStage:
    """One column of the flow.

    Attributes:
        share: of all targets, still there after this stage.
        lost: what the lost ones' label says.
        parts: how the share came about, (label, share, CSS colour) from the top; () for one undivided flow.
    """

    title: str
    note: str
    share: float
    lost: str = ""
    parts: tuple[tuple[str, float, str], ...] = ()


def flow(stages: Sequence[FlowStage], percent: Sequence[str], lost_percent: Sequence[str], title: str) -> Markup:
    """Targets from left to right; what a stage loses leaves below. Widths of flows are proportional to shares.

    Args:
        stages: the first holds all targets.
        percent, lost_percent: of each stage, as text; the first stage's loss is not shown.
    """
    width, top, full, drop, bar, last_label = 1120, 86, 264, 46, 12, 158
    step = (width - last_label - bar) / (len(stages) - 1)
    out: list[Markup] = []
    bottom = top + full
    for s, stage in enumerate(stages):
        x, height = s * step, full * stage.share
        if s:
            before = full * stages[s - 1].share
            out += _arriving(x - step + bar, x, top, stage, full)
            lost = before - height
            out.append(_ribbon(x - step + bar, top + height, x, top + height + drop, lost, "f-lost"))
            out.append(charts.box(x, top + height + drop, bar, max(lost, 1), "b-lost"))
            bottom = max(bottom, top + height + drop + max(lost, 36))
            label_y = top + height + drop + 14
            out.append(charts.text(x + bar + 8, label_y, f"{lost_percent[s]} lost", "t-lost"))
            out.append(charts.text(x + bar + 8, label_y + 17, stage.lost, "t-note"))
        out.append(charts.box(x, top, bar, max(height, 1), "b-kept"))
        out.append(charts.text(x, 16, stage.title, "t-title"))
        out.append(charts.text(x, 48, percent[s], "t-big"))
        out.append(charts.text(x, 69, stage.note, "t-note"))
    return charts.svg(width, bottom, title, "flow", out)


def _arriving(x0: float, x1: float, top: float, stage: FlowStage, full: float) -> list[Markup]:
    """The kept flow into a stage, in its parts where it has some."""
    if not stage.parts:
        return [_ribbon(x0, top, x1, top, full * stage.share, "f-kept")]
    out: list[Markup] = []
    y = top
    for label, share, fill in stage.parts:
        height = full * share
        shape = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" class="f-part" style="fill:{}"/>')
        out.append(shape.format(x0, y, x1 - x0, height, fill))
        if height >= 15:
            out.append(charts.text(x0 + 10, y + height / 2 + 4.5, label, "t-part"))
        y += height
    return out


def whisker(interval: Interval, low: float, high: float, *, zero: bool = False, width: int = 220) -> Markup:
    """A dot with its interval on a scale from `low` to `high`; `zero` draws the line of no difference.

    The colour tells where a difference's whole interval lies: above zero, below, or on both sides.
    """
    height, pad = 20, 6

    def at(value: float) -> float:
        return pad + (width - 2 * pad) * (value - low) / ((high - low) or 1)

    side = "w-neutral"
    if zero:
        side = "w-good" if interval.low > 0 else "w-bad" if interval.high < 0 else "w-open"
    out = [charts.line(pad, height / 2, width - pad, height / 2, "axis")]
    if zero:
        out.append(charts.line(at(0), 1, at(0), height - 1, "zero"))
    out.append(charts.line(at(interval.low), height / 2, at(interval.high), height / 2, side))
    for end in (interval.low, interval.high):
        out.append(charts.line(at(end), height / 2 - 4, at(end), height / 2 + 4, side))
    out.append(
        Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4" class="{}"/>').format(at(interval.value), height / 2, side)
    )
    said = f"{100 * interval.value:.1f}, from {100 * interval.low:.1f} to {100 * interval.high:.1f}"
    return charts.svg(width, height, said, "whisker", out)


def histogram(counts: Sequence[int], labels: Sequence[str], fill: str, title: str) -> Markup:
    """Small bars, each with its own tooltip."""
    height, bar, gap = 30, 12, 2
    tallest = max(max(counts, default=0), 1)
    out = []
    for i, (count, label) in enumerate(zip(counts, labels, strict=True)):
        h = max(26 * count / tallest, 1)
        shape = Markup(
            '<rect x="{}" y="{:.1f}" width="{}" height="{:.1f}" style="fill:{}"><title>places {}: {:,}</title></rect>'
        )
        out.append(shape.format(i * (bar + gap), height - h, bar, h, fill, label, count))
    return charts.svg(max(len(counts) * (bar + gap), 1), height, title, "histogram", out)


@dataclass(frozen=True)
class Line:
    """One line of a curve: y at each x, its CSS class and colour."""

    y: tuple[float, ...]
    css: str
    stroke: str


def curve(xs: Sequence[int], lines: Sequence[Line], mark: int, title: str) -> Markup:
    """Lines over a logarithmic axis, y a share from 0; a vertical line at `mark`."""
    width, height, left, right, top, bottom = 560, 300, 46, 14, 12, 44
    high = charts.round_up(max(max(line.y) for line in lines))
    span = math.log(xs[-1] / xs[0]) or 1.0

    def px(x: float) -> float:
        return left + (width - left - right) * math.log(x / xs[0]) / span

    def py(y: float) -> float:
        return height - bottom - (height - bottom - top) * y / high

    out = []
    for i in range(5):
        y = high * i / 4
        out.append(charts.line(left, py(y), width - right, py(y), "grid"))
        out.append(charts.text(left - 8, py(y) + 4, f"{100 * y:.3g} %", "t-tick", "end"))
    out.append(charts.line(px(mark), top, px(mark), height - bottom, "mark"))
    previous = -math.inf
    for x in sorted(set(xs), key=lambda x: (x != mark, x != xs[0], x != xs[-1], x)):
        # The ends and the mark first; of the others, those that have room are added by the second pass below.
        if x in (mark, xs[0], xs[-1]):
            out.append(charts.text(px(x), height - bottom + 18, f"{x:,}", "t-tick", "middle"))
    fixed = [px(mark), px(xs[0]), px(xs[-1])]
    for x in xs:
        if all(abs(px(x) - place) > 34 for place in fixed) and px(x) - previous > 34:
            out.append(charts.text(px(x), height - bottom + 18, f"{x:,}", "t-tick", "middle"))
            previous = px(x)
    out.append(
        charts.text(
            (left + width - right) / 2, height - 6, "items looked at, from the top of the list", "t-tick", "middle"
        )
    )
    for line in reversed(lines):
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in zip(xs, line.y, strict=True))
        shape = Markup('<polyline points="{}" class="{}" style="stroke:{}"/>')
        out.append(shape.format(path, line.css, line.stroke))
    return charts.svg(width, height, title, "curve", out)


def dots(present: Sequence[bool], fills: Sequence[str]) -> Markup:
    """Which channels a combination is of: a filled dot for each of them, a hollow one for the others."""
    out = []
    for i, (there, fill) in enumerate(zip(present, fills, strict=True)):
        shape = Markup('<circle cx="{}" cy="8" r="5" class="{}" style="fill:{}"/>')
        out.append(shape.format(8 + 18 * i, "dot" if there else "dot off", fill if there else "none"))
    said = f"{sum(present)} of {len(present)} channels"
    return charts.svg(18 * len(present), 16, said, "dots", out)


def _ribbon(x0: float, y0: float, x1: float, y1: float, height: float, css: str) -> Markup:
    """A band of even height from (x0, y0) to (x1, y1), its upper corners."""
    middle = (x0 + x1) / 2
    path = Markup(
        '<path d="M{0:.1f},{1:.1f} C{4:.1f},{1:.1f} {4:.1f},{3:.1f} {2:.1f},{3:.1f} '
        'L{2:.1f},{6:.1f} C{4:.1f},{6:.1f} {4:.1f},{5:.1f} {0:.1f},{5:.1f} Z" class="{7}"/>'
    )
    return path.format(x0, y0, x1, y1, middle, y0 + height, y1 + height, css)

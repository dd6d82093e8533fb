"""The report's figures: SVG whose bytes depend on the numbers alone (no date, fixed ids)."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from textwrap import fill
from typing import TYPE_CHECKING, Any

from penchant.evaluation.significance import Difference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE: Any = {"svg.hashsalt": "penchant", "font.size": 9}
TITLE = 100
"""Letters that fit above a figure; longer titles take another line."""
WIDE = 100
"""Times the smallest value: from there on the axis is logarithmic, as the small ones could not be told apart."""


@dataclass(frozen=True)
class Bar:
    """One row of a figure: a value a seed, and its difference to the control if that is known."""

    name: str
    values: tuple[float, ...]
    difference: Difference | None


def draw_against(title: str, cost: str, metric: str, points: Mapping[str, tuple[float, float]]) -> bytes:
    """A metric of each row against what it cost, on a logarithmic scale: the best rows are at the upper left.

    Rows that differ in a number at the end of their names (ann-100, ann-1000) are one line. A metric that spans more
    than a factor of twenty is on a logarithmic scale too.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(8.0, 4.5), layout="constrained")
        figure.suptitle(fill(title, TITLE), fontsize=10)
        axes = figure.subplots()
        for i, (stem, rows) in enumerate(_lines(points).items()):
            axes.plot(*zip(*rows.values(), strict=True), marker="o", markersize=5)
            below = len(rows) > 1 and i % 2
            for j, (number, at) in enumerate(rows.items()):
                label = stem if len(rows) == 1 else f"{stem} {number}" if j == len(rows) - 1 else number
                offset = (5, -10) if below else (5, 3)
                axes.annotate(label, at, xytext=offset, textcoords="offset points", fontsize=8)
        axes.set_xscale("log")
        heights = [y for _, y in points.values()]
        if heights and 0 < 20 * min(heights) < max(heights):
            axes.set_yscale("log")
        axes.margins(x=0.2)
        axes.set_xlabel(cost)
        axes.set_ylabel(metric)
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        return _svg(figure)


def _lines(points: Mapping[str, tuple[float, float]]) -> dict[str, dict[str, tuple[float, float]]]:
    """Points by line, in order along it: rows that only differ in a last number, the others each by itself."""
    stems = {name: match[1] for name in points if (match := re.fullmatch(r"(.+)-\d+", name))}
    several = {stem for stem, count in Counter(stems.values()).items() if count > 1 and stem not in points}
    lines: dict[str, dict[str, tuple[float, float]]] = {}
    for name, at in sorted(points.items(), key=lambda point: point[1]):
        stem = stems.get(name, "")
        if stem in several:
            lines.setdefault(stem, {})[name[len(stem) + 1 :].lstrip("0") or "0"] = at
        else:
            lines[name] = {"": at}
    return lines


def draw_curves(title: str, size: str, curves: Mapping[str, Sequence[tuple[float, float]]]) -> bytes:
    """Each metric over a size, on a logarithmic scale, in a panel of its own; the metrics from zero."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        across = min(len(curves), 3) or 1
        down = -(-len(curves) // across) or 1
        figure = Figure(figsize=(8.0, 0.5 + 2.3 * down), layout="constrained")
        figure.suptitle(fill(title, TITLE), fontsize=10)
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for axes, (metric, points) in zip(panels, curves.items(), strict=False):
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, color="tab:blue")
            axes.set_xscale("log")
            axes.set_ylim(bottom=0)
            axes.set_xlabel(size)
            axes.set_title(metric, fontsize=9)
            axes.grid(color="0.9")
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        for axes in panels[len(curves) :]:
            axes.set_axis_off()
        return _svg(figure)


def draw_lines(title: str, over: str, panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]) -> bytes:
    """Several named lines in each panel, over what is named by `over`; a line has one colour in all panels."""
    from matplotlib import colormaps, rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(8.0, 3.6), layout="constrained")
        figure.suptitle(fill(title, TITLE), fontsize=10)
        colours = colormaps["tab10"].colors  # pyright: ignore[reportAttributeAccessIssue]
        names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
        for axes, (metric, lines) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            for name, points in lines.items():
                colour = colours[names.index(name) % len(colours)]
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1, label=name, color=colour)
            axes.set_xlabel(over)
            axes.set_title(metric, fontsize=9)
            axes.grid(color="0.9")
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
        return _svg(figure)


def draw_reliability(title: str, rows: Mapping[str, Sequence[tuple[float, float]]]) -> bytes:
    """Share of clicks over the mean probability told, bin by bin: a calibrated row lies on the diagonal.

    A panel a row, with the others in grey behind it.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        across = min(len(rows), 4) or 1
        down = -(-len(rows) // across) or 1
        figure = Figure(figsize=(8.0, 0.8 + 1.8 * down), layout="constrained")
        figure.suptitle(fill(title, TITLE), fontsize=10)
        figure.supxlabel("probability told (mean of a bin)", fontsize=9)
        figure.supylabel("share of clicks", fontsize=9)
        panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
        ends = [value for bins in rows.values() for point in bins for value in point]
        for axes, name in zip(panels, rows, strict=False):
            axes.plot([min(ends), max(ends)], [min(ends), max(ends)], color="0.4", linewidth=0.8, linestyle="--")
            for other, bins in rows.items():
                if other != name:
                    axes.plot(*zip(*bins, strict=True), linewidth=0.6, color="0.8", zorder=1)
            axes.plot(*zip(*rows[name], strict=True), marker="o", markersize=3, linewidth=1.2, color="tab:blue")
            axes.set_title(name, fontsize=9)
            axes.grid(color="0.9")
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        for axes in panels[len(rows) :]:
            axes.set_axis_off()
        return _svg(figure)


def draw_rows(title: str, metric: str, bars: Sequence[Bar], control: str | None) -> bytes:
    """A metric of each row (a dot a seed, a line at the mean), and beside it the difference to the control."""
    # Imported late: it takes half a second that no other command should pay.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    show_difference = any(bar.difference for bar in bars)
    with rc_context(STYLE):
        figure = Figure(figsize=(8.0, 1.4 + 0.32 * max(len(bars), 1)), layout="constrained")
        figure.suptitle(fill(title, TITLE), fontsize=10)
        axes = figure.subplots(1, 1 + show_difference, sharey=True, squeeze=False)[0]
        for place, bar in enumerate(bars):
            axes[0].plot([mean(bar.values)], [place], marker="|", markersize=14, color="0.2")
            axes[0].plot(bar.values, [place] * len(bar.values), "o", markersize=4, color="tab:blue", alpha=0.7)
        axes[0].set_xlabel(metric)
        axes[0].set_yticks(range(len(bars)), [bar.name for bar in bars])
        axes[0].set_ylim(len(bars) - 0.5, -0.5)
        if show_difference:
            for place, bar in enumerate(bars):
                if d := bar.difference:
                    axes[1].plot([d.low, d.high], [place, place], color="tab:blue", linewidth=2)
                    axes[1].plot([d.value], [place], "o", markersize=4, color="tab:blue")
            axes[1].axvline(0.0, color="0.4", linewidth=0.8)
            axes[1].set_xlabel(f"difference to {control}, 95 % interval")
        for axis in axes:
            axis.locator_params(axis="x", nbins=5)  # more labels touch
            axis.grid(axis="x", color="0.9")
            axis.set_axisbelow(True)
            axis.spines[["top", "right"]].set_visible(False)
        values = [value for bar in bars for value in bar.values]
        if min(values, default=0.0) > 0 and max(values) > WIDE * min(values):
            axes[0].set_xscale("log")
        return _svg(figure)


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()

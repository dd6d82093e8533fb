"""The diagnostics as one HTML file: styles and drawings inside it, no script, nothing loaded from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from penchant.data.store import write_text
from penchant.evaluation.charts import colour
from penchant.evaluation.diagnostics import charts
from penchant.evaluation.diagnostics.attention import Reading
from penchant.evaluation.diagnostics.report import (
    GROUPS,
    OF_ATTENTION,
    READERS,
    WEIGHTS,
    WITHIN,
    Diagnosis,
    DiagnosticsReport,
    Number,
    shown,
)
from penchant.evaluation.pages import page_template

FLOOR = 1e-5
"""Least share of a direction that the spectra show."""


@dataclass(frozen=True)
class Row:
    """One number of all columns, as text; `worst` is the column nearest to collapse among the runs."""

    number: Number
    values: list[str]
    worst: int | None


@dataclass(frozen=True)
class Column:
    """One transformer: a run's, or one that several runs share."""

    title: str
    reading: Reading


@dataclass(frozen=True)
class Stroke:
    """How a column's lines are drawn; dashed: what is within a run, in the run's colour."""

    colour: str
    dashed: bool

    def line(self, y: np.ndarray) -> charts.Curve:
        """Of these values."""
        return charts.Curve(y, self.colour, self.dashed)

    @property
    def swatch(self) -> str:
        """As a CSS background."""
        dashes = f"repeating-linear-gradient(90deg,{self.colour} 0 4px,transparent 4px 7px)"
        return dashes if self.dashed else self.colour


def write_page(report: DiagnosticsReport, path: str | Path) -> None:
    """Write the page, whole or not at all. It holds one item's words, where an item encoder's attention is drawn."""
    write_text(Path(path), render_page(report))


def render_page(report: DiagnosticsReport) -> str:
    """The page's text; see `write_page`."""
    template = page_template(Path(__file__).with_name("page.html"), {})
    columns = report.columns
    strokes = _strokes(columns)
    return template.render(
        report=report,
        runs=[column for column in columns if column.kind],
        columns=columns,
        swatches={name: stroke.swatch for name, stroke in strokes.items()},
        has_items=lambda column: len(column.item_spectrum),
        has_users=lambda column: len(column.user_spectrum),
        has_lists=lambda column: len(column.occurrences),
        groups={name: rows for name, numbers in GROUPS.items() if (rows := _rows(numbers, columns))},
        chance=shown(report.chance_purity, 3),
        items=_spectra([strokes[c.name].line(c.item_spectrum) for c in columns], "items"),
        users=_spectra([strokes[c.name].line(c.user_spectrum) for c in columns], "users"),
        hubs=_hubs(columns, strokes),
        attention=[entry for reader in READERS if (entry := _attention(reader, columns))],
        notes=[(c.name, note) for c in columns for note in c.notes],
    )


def _strokes(columns: Sequence[Diagnosis]) -> dict[str, Stroke]:
    """By the columns' names."""
    runs = {column.name: colour(place) for place, column in enumerate(c for c in columns if c.kind)}
    out = {}
    for column in columns:
        within = column.name.removesuffix(WITHIN)
        dashed = not column.kind and within in runs
        out[column.name] = Stroke(runs[within] if column.kind or dashed else "var(--muted)", dashed)
    return out


def _rows(numbers: dict[str, Number], columns: Sequence[Diagnosis]) -> list[Row]:
    out = []
    for key, number in numbers.items():
        values = [column.numbers.get(key) for column in columns]
        if any(value is not None for value in values):
            out.append(Row(number, [shown(v, number.decimals) for v in values], _worst(number, values, columns)))
    return out


def _worst(number: Number, values: Sequence[float | None], columns: Sequence[Diagnosis]) -> int | None:
    """Of two runs or more: which is nearest to collapse, if one alone is, as far as the shown decimals tell."""
    told = [
        (round(v, number.decimals), i) for i, v in enumerate(values) if v is not None and v == v and columns[i].kind
    ]
    if not number.collapse or len(told) < 2:
        return None
    pick = max if number.collapse == "high" else min
    value, place = pick(told)
    return place if sum(v == value for v, _ in told) == 1 else None


def _spectra(spectra: Sequence[charts.Curve], whose: str) -> Markup | None:
    drawn = [curve for curve in spectra if len(curve.y)]
    if not drawn:
        return None
    title = f"Share of each direction of the vectors of {whose} in the sum of squares"
    return charts.log_curves(drawn, title, "direction, the strongest first", "share", floor=FLOOR)


def _hubs(columns: Sequence[Diagnosis], strokes: dict[str, Stroke]) -> Markup | None:
    drawn = [strokes[c.name].line(c.occurrences[c.occurrences > 0] / c.targets) for c in columns if c.occurrences.any()]
    if not drawn:
        return None
    floor = min(1 / c.targets for c in columns if c.targets)
    below = "item, the one in most lists first"
    return charts.log_curves(
        drawn, "Share of the lists of 50 that each item is in", below, "share of lists", floor=floor
    )


def _attention(reader: str, columns: Sequence[Diagnosis]) -> dict[str, Any] | None:
    """The table, the grids and the pictures of one kind of transformer."""
    told = [(c, r) for c in columns for r in c.readings if r.reader == reader]
    if not told:
        return None
    shared: list[Column] = []
    for weights in ("random", "untouched"):
        found = [(c, r) for c, r in told if r.weights == weights]
        # One for all runs of a shape: where they differ, it is in the trained e_i that the decoder is given to read.
        first = {_shape(r): (c, r) for c, r in reversed(found)}
        several = any(r.heads != found[0][1].heads for _, r in found)
        shared += [Column(WEIGHTS[weights] + (f", input of {c.name}" if several else ""), r) for c, r in first.values()]
    drawn = [*shared, *(Column(c.name, r) for c, r in told if r.weights == "trained")]
    places = sorted({place for column in drawn for place in column.reading.pictures})
    return {
        "title": READERS[reader],
        "columns": [column.title for column in drawn],
        "rows": [
            Row(number, [shown(c.reading.mean(name), number.decimals) for c in drawn], None)
            for name, number in OF_ATTENTION.items()
        ],
        "grids": [
            (OF_ATTENTION[name].label, [_grid(column, name) for column in drawn])
            for name in ("entropy", "barcode_beyond")
        ],
        "maps": [
            (f"Layer {layer}, head {head}", [_map(column, (layer, head)) for column in drawn]) for layer, head in places
        ],
        "labels": " ".join(told[0][1].labels) if reader == "item encoder" else "",
    }


def _shape(reading: Reading) -> tuple[int, ...]:
    return tuple(len(layer) for layer in reading.heads)


def _grid(column: Column, name: str) -> Markup:
    values = np.array([[getattr(head, name) for head in layer] for layer in column.reading.heads])
    return charts.head_grid(values, f"{OF_ATTENTION[name].label} of each layer and head, {column.title}")


def _map(column: Column, place: tuple[int, int]) -> Markup | str:
    weights = column.reading.pictures.get(place)
    if weights is None:
        return ""
    return charts.attention_map(weights, f"{column.title}, layer {place[0]}, head {place[1]}")

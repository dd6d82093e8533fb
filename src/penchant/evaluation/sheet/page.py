"""The data sheet as one HTML file: styles, drawings and small pictures inside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from markupsafe import Markup

from penchant.data.store import write_text
from penchant.evaluation.pages import page_template, percent
from penchant.evaluation.sheet import charts
from penchant.evaluation.sheet.checks import REASSURANCE, Check
from penchant.evaluation.sheet.events import GAPS
from penchant.evaluation.sheet.examples import Item
from penchant.evaluation.sheet.report import DataSheet, dates, day

QUANTILES = (
    ("shortest", 0),
    ("5 %", 0.05),
    ("25 %", 0.25),
    ("median", 0.5),
    ("75 %", 0.75),
    ("95 %", 0.95),
    ("99 %", 0.99),
    ("longest", 1),
)

MAX_ROWS, MAX_CHARS = 100, 400
"""Reasons of refusal and notes that are shown; the most characters of a text of the data among them."""

PERIODS = {"h": "hour", "D": "day", "W": "week", "M": "month", "Y": "year"}

Bar = tuple[str, float, str]
"""A label, a length as share of the longest, and what the number is."""


def write_page(sheet: DataSheet, path: str | Path) -> None:
    """Write the page, whole or not at all. Its examples and refused rows are rows of the data."""
    write_text(Path(path), render_page(sheet))


def render_page(sheet: DataSheet) -> str:
    """The page's text, under 2 MB."""
    events, m = sheet.events, {"source": None, "view": None, "synthetic": False, **sheet.manifest}
    template = page_template(
        Path(__file__).with_name("page.html"), {"day": day, "number": "{:,}".format, "cut": _cut, "moment": _moment}
    )
    return template.render(
        sheet=sheet,
        reassurance=REASSURANCE,
        m=m,
        dates=dates(sheet),
        events=events,
        quantiles=_quantiles(events.lengths),
        lengths=_lengths(events.lengths),
        popularity=_curve(sheet),
        gaps=None if events.gaps is None else _bars(zip((n for n, _ in GAPS), events.gaps.tolist(), strict=True)),
        periods=_periods(sheet),
        period=PERIODS[events.periods.unit] if events.periods else "",
        checks=_by_name(sheet.checks),
        passed=sum(check.passes for check in sheet.checks),
        actions=_bars(list(sheet.actions.items())[:10]),
        content=[
            (name, n / max(m["counts"]["items"], 1), percent(n / max(m["counts"]["items"], 1)))
            for name, n in sheet.content.items()
        ],
        categories=[] if sheet.categories is None else _shares((n, s) for n, s, _ in sheet.categories.top),
        positions=[] if sheet.impressions is None else _shares((str(p), s) for p, _, s in sheet.impressions.positions),
        sources=[] if sheet.impressions is None else _bars(sheet.impressions.sources.items()),
        queries=[] if sheet.queries is None else _bars(sheet.queries.top, total=sheet.queries.spread.total),
        pictures=any(item.picture for item in _shown(sheet)),
        refused=m.get("refused", [])[:MAX_ROWS],
        notes=m.get("notes", [])[:MAX_ROWS],
    )


def _shown(sheet: DataSheet) -> list[Item]:
    return [*sheet.examples.items, *(item for user in sheet.examples.users for item in user.items)]


def _cut(text: str) -> str:
    """At most MAX_CHARS characters."""
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 1] + "…"


def _moment(time_ms: int) -> str:
    """2026-01-31 12:05"""
    return str(np.datetime64(time_ms, "ms").astype("datetime64[m]")).replace("T", " ")


def _bars(counts: Iterable[tuple[str, int]], total: int | None = None) -> list[Bar]:
    """Bars of counts, each said as a share of the total."""
    counts = list(counts)
    total = total or sum(n for _, n in counts)
    longest = max((n for _, n in counts), default=0)
    return [(name, n / max(longest, 1), f"{n:,} ({percent(n / max(total, 1))})") for name, n in counts]


def _shares(shares: Iterable[tuple[str, float]]) -> list[Bar]:
    shares = list(shares)
    longest = max((s for _, s in shares), default=0.0)
    return [(name, s / (longest or 1), percent(s)) for name, s in shares]


def _quantiles(lengths: np.ndarray) -> list[tuple[str, str]]:
    """Of the users with an event."""
    some = lengths[lengths > 0]
    return [(name, f"{np.quantile(some, q, method='nearest'):,}") for name, q in QUANTILES] if len(some) else []


def _lengths(lengths: np.ndarray) -> list[Bar]:
    """Users by the number of their events, in bins that double."""
    edges = [0, *(2**power for power in range(int(lengths.max(initial=1)).bit_length() + 1))]
    counts = np.histogram(lengths, bins=edges)[0].tolist()
    names = [f"{low}" if high == low + 1 else f"{low:,}–{high - 1:,}" for low, high in pairwise(edges)]
    first = 0 if counts[0] else 1
    return _bars(zip(names[first:], counts[first:], strict=True))


def _curve(sheet: DataSheet) -> Markup | None:
    if not sheet.items.different:
        return None
    return charts.rank_curve(sheet.items.curve, "Events of each item, by its rank", "items, the most popular first")


def _periods(sheet: DataSheet) -> Markup | None:
    """Events over time, with the start of each window of each split that cuts by time."""
    if sheet.events.periods is None:
        return None
    cuts = {
        (cut, window.name)
        for split in sheet.events.splits
        for cut, window in zip(split.cuts_ms or (), split.windows[1:], strict=split.cuts_ms is not None)
    }
    title = f"Events of each {PERIODS[sheet.events.periods.unit]}, and where windows of splits start"
    return charts.period_bars(sheet.events.periods, sorted(cuts), title)


def _by_name(checks: Sequence[Check]) -> dict[str, list[Check]]:
    """The same check of several splits together; those that do not hold somewhere first."""
    found: dict[str, list[Check]] = {}
    for check in checks:
        found.setdefault(check.name, []).append(check)
    return dict(sorted(found.items(), key=lambda entry: all(check.passes for check in entry[1])))

"""The funnel report as one HTML file: styles and drawings inside it, no script, nothing loaded from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from markupsafe import Markup

from penchant.data.store import Store, write_text
from penchant.evaluation.charts import colour
from penchant.evaluation.funnel import charts
from penchant.evaluation.funnel.audit import LostTarget
from penchant.evaluation.funnel.charts import FlowStage, Line
from penchant.evaluation.funnel.report import (
    PLACE_BINS,
    STAGE_TITLES,
    Control,
    FunnelReport,
    Interval,
    best_estimate,
    control_title,
    unreachable,
)
from penchant.evaluation.pages import page_template, percent

MAX_COMBINATIONS = 12
"""Combinations of channels that the page shows."""

LOST = {
    "retrieve": "no channel found them",
    "merge": "the merge cut them off",
    "prerank": "pre-ranking dropped them",
    "rank": "ranked below {k}",
}
"""What each stage did to the targets it lost; `{k}` is the list's length."""

LOST_ONE = {
    "retrieve": "No channel found it",
    "merge": "Cut off in the merge, at best in place {place:,} of a channel",
    "prerank": "Dropped in pre-ranking, from place {place:,} of the merged list",
    "rank": "Ranked too low, in place {place:,}",
}


def write_page(
    report: FunnelReport, path: str | Path, *, lost: Sequence[LostTarget] = (), titles: Sequence[str] = ()
) -> None:
    """Write the page, whole or not at all.

    Args:
        lost: samples to show (`FunnelAudit.lost_targets`). They are rows of the data: leave them out of a page that is
            to be published.
        titles: of each item, by its dense number (`item_titles`); items beyond it go by their number.
    """
    write_text(Path(path), render_page(report, lost=lost, titles=titles))


def item_titles(store: Store) -> list[str]:
    """Each item's title, or its id where it has none; entry 0 is padding."""
    titles = store.table("items", ["title"])["title"].to_pylist()
    return [title or item_id for title, item_id in zip(["", *titles], store.item_ids, strict=True)]


def render_page(report: FunnelReport, *, lost: Sequence[LostTarget] = (), titles: Sequence[str] = ()) -> str:
    """The page's text; see `write_page`."""
    template = page_template(Path(__file__).with_name("page.html"), {"signed": _signed, "short": _short})
    labels = _bins(report)
    colours = {channel.name: colour(c) for c, channel in enumerate(report.channels)}
    return template.render(
        report=report,
        p=report.provenance,
        stage_titles=STAGE_TITLES,
        lost_text={stage: text.format(k=report.k) for stage, text in LOST.items()},
        leak=max(report.stages, key=lambda stage: stage.lost_share.value),
        best=_best_channel(report),
        control_title=control_title,
        best_estimate=best_estimate,
        unreachable=unreachable(report),
        colours=colours,
        parts=_parts(report, colours),
        flow=_flow(report, _parts(report, colours)),
        curve=_curve(report, colours),
        curve_names=[(*_curve_look(c.name, c.kind, colours), _curve_title(c.name, c.kind)) for c in report.curves],
        gain_whisker=_gain_whisker(report),
        hit_whisker=_hit_whisker(report),
        histogram={
            c.name: charts.histogram(
                c.places[: len(labels)], labels, colours[c.name], f"Places at which {c.name} found targets"
            )
            for c in report.channels
        },
        shown=report.combinations[:MAX_COMBINATIONS],
        dots=_dots(report, colours),
        bins=", ".join([*labels[:3], "…", labels[-1]] if len(labels) > 4 else labels),
        most_alike=max((v for r, row in enumerate(report.overlap) for v in row[:r]), default=0.0) or 1.0,
        lost=[_lost_row(entry, titles) for entry in lost],
    )


def _best_channel(report: FunnelReport) -> Control:
    return max((c for c in report.controls if c.kind == "channel"), key=lambda control: control.hr.value)


def _parts(report: FunnelReport, colours: dict[str, str]) -> list[tuple[str, float, str]]:
    """Who found the retrieved targets: label, share of all targets, colour."""
    alone = [(f"only {c.name}", c.exclusive.value, colours[c.name]) for c in report.channels]
    filled = sum(c.share for c in report.combinations if not c.channels)
    several = report.stages[0].survived.value - filled - sum(share for _, share, _ in alone)
    parts = [("several channels", several, "var(--kept)"), *alone, ("only as filling", filled, "var(--muted)")]
    return [part for part in parts if part[1] > 1e-9]


def _flow(report: FunnelReport, parts: list[tuple[str, float, str]]) -> Markup:
    notes = {
        "retrieve": "of {0:,} items, {1:,.0f} retrieved",
        "merge": "{1:,.0f} items kept",
        "prerank": "{1:,.0f} items kept",
        "rank": "list of {1:.0f}",
    }
    stages = [FlowStage("True next items", f"{report.num_targets:,} targets", 1.0)]
    for stage in report.stages:
        stages.append(
            FlowStage(
                title=STAGE_TITLES[stage.stage],
                note=notes[stage.stage].format(report.num_items, stage.size),
                share=stage.survived.value,
                lost=LOST[stage.stage].format(k=report.k),
                parts=tuple(parts) if stage.stage == "retrieve" else (),
            )
        )
    shares = [percent(stage.share) for stage in stages]
    shares[0] = "100\u00a0%"
    lost = ["", *(percent(stage.lost_share.value) for stage in report.stages)]
    return charts.flow(stages, shares, lost, "Share of the true next items left after each stage, and lost at each")


def _curve_title(name: str, kind: str) -> str:
    if kind == "funnel":
        return "the whole funnel"
    return f"{name} alone" if kind == "channel" else {"merge": "merged order", "prerank": "pre-ranked order"}[name]


def _curve_look(name: str, kind: str, colours: dict[str, str]) -> tuple[str, str]:
    """CSS class and colour of a line."""
    if kind == "channel":
        return "line thin", colours[name]
    return {"funnel": "line bold", "prerank": "line dashed", "merge": "line dotted"}[name], "var(--ink-line)"


def _curve(report: FunnelReport, colours: dict[str, str]) -> Markup:
    lines = []
    for one in report.curves:
        css, stroke = _curve_look(one.name, one.kind, colours)
        lines.append(Line(one.hr, css, "var(--kept)" if one.kind == "funnel" else stroke))
    return charts.curve(
        report.curve_ks, lines, report.k, "Share of the true next items within the first k of each list"
    )


def _gain_whisker(report: FunnelReport) -> Any:
    """Draws a gain on the scale that all gains of the page share."""
    gains = [control.hr_gain for control in report.controls] + [report.truncation.gain]
    gains += [report.fusion.gain] if report.fusion else []
    low, high = min(0.0, *(g.low for g in gains)), max(0.0, *(g.high for g in gains))

    def draw(gain: Interval) -> Markup:
        return charts.whisker(gain, low, high, zero=True, width=340)

    return draw


def _hit_whisker(report: FunnelReport) -> Any:
    """Draws a slice's HR on the scale that all slices share."""
    high = max((entry.hit.high for entry in report.slices), default=1.0)

    def draw(hit: Interval) -> Markup:
        return charts.whisker(hit, 0.0, high, width=150)

    return draw


def _bins(report: FunnelReport) -> list[str]:
    """Names of the bins of places that any channel uses."""
    names = [f"{a}" if b == a + 1 else f"{a}-{b - 1}" for a, b in pairwise(PLACE_BINS)] + [f"{PLACE_BINS[-1]}+"]
    used = max((i + 1 for c in report.channels for i, count in enumerate(c.places) if count), default=1)
    return names[:used]


def _dots(report: FunnelReport, colours: dict[str, str]) -> list[Markup]:
    names = list(colours)
    return [
        charts.dots([n in combination.channels for n in names], [colours[n] for n in names])
        for combination in report.combinations[:MAX_COMBINATIONS]
    ]


def _lost_row(entry: LostTarget, titles: Sequence[str]) -> dict[str, Any]:
    def title(item: int) -> str:
        return titles[item] if item < len(titles) else f"item {item}"

    return {
        "title": title(entry.item),
        "count": entry.training_count,
        "stage": entry.stage,
        "how": LOST_ONE[entry.stage].format(place=entry.place),
        "history": [title(item) for item in entry.history],
    }


def _short(value: float) -> str:
    """Milliseconds with three digits that matter."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _signed(difference: float) -> str:
    """A difference of shares in percentage points, with a true minus sign."""
    return f"{100 * difference:+.1f}".replace("-", "\u2212")

"""The page: one file that needs nothing else, and shows nothing of the data as markup."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from penchant.data.store import Store
from penchant.evaluation.funnel.audit import LostTarget
from penchant.evaluation.funnel.charts import FlowStage, Line, curve, flow, whisker
from penchant.evaluation.funnel.page import item_titles, render_page, write_page
from penchant.evaluation.funnel.report import Interval
from tests.evaluation.funnel.funnels import PROVENANCE, UNFUSED, report_by_hand
from tests.pages import check_form

EVIL = '<script>alert("x")</script>'


@pytest.fixture(scope="module")
def page() -> str:
    lost = LostTarget("merge", item=2, place=41, history=(1, 3), training_count=7)
    return render_page(report_by_hand(), lost=[lost], titles=["", "first", "second", "third"])


def test_the_page_loads_nothing(page: str) -> None:
    assert not re.findall(r"(?:https?:)?//|url\(|@import|<script|<link|<img|<iframe|\bsrc=|\bhref=", page)


def test_the_page_is_well_formed(page: str) -> None:
    check_form(page)


def test_the_page_is_small(page: str) -> None:
    assert len(page.encode()) < 300_000


def test_every_drawing_has_a_title_or_is_an_ornament(page: str) -> None:
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert "<title>" in drawing or 'aria-hidden="true"' in drawing


def test_the_page_shows_the_numbers(page: str) -> None:
    text = re.sub(r"<[^>]+>", " ", page).replace("\u00a0", " ")
    for said in (
        "33.3 %",
        "83.3 %",
        "16.7 % lost",
        "no channel found them",
        "ranked below 2",
        "second",
        "first → third",
    ):
        assert said in text
    assert "Cut off in the merge, at best in place 41 of a channel" in text


def test_the_pre_ranker_alone_is_shown_where_its_scores_are_fused(page: str) -> None:
    assert "chosen by the pre-ranker" in page
    assert "by the pre-ranker alone" not in page
    fused = re.sub(r"<[^>]+>", " ", render_page(report_by_hand(UNFUSED))).replace("\u00a0", " ")
    for said in ("chosen by the fused scores", "by the pre-ranker alone", "only fused 33.3 %, only alone 16.7 %"):
        assert said in fused


def test_synthetic_data_is_labelled_and_real_data_is_not(page: str) -> None:
    assert "synthetic data" in page
    real = replace(report_by_hand(), provenance=replace(PROVENANCE, synthetic=False))
    assert "synthetic" not in render_page(real)


def test_provenance_is_on_the_page(page: str) -> None:
    for said in (PROVENANCE.store_fingerprint, PROVENANCE.split_fingerprint, "merged_size=4", "penchant 0"):
        assert said in page


def test_text_of_the_data_is_escaped_everywhere() -> None:
    report = report_by_hand()
    names = [EVIL, "b"]
    report = replace(
        report,
        provenance=replace(PROVENANCE, data=EVIL, config={EVIL: EVIL}, versions={EVIL: EVIL}),
        channels=tuple(replace(c, name=n) for c, n in zip(report.channels, names, strict=True)),
        combinations=tuple(
            replace(c, channels=tuple(names[n == "b"] for n in c.channels)) for c in report.combinations
        ),
        controls=tuple(replace(c, name=EVIL) if c.name == "a" else c for c in report.controls),
        curves=tuple(replace(c, name=EVIL) if c.name == "a" else c for c in report.curves),
        latency=tuple(
            replace(row, stage=f"retrieve:{EVIL}") if row.stage == "retrieve:a" else row for row in report.latency
        ),
        slices=tuple(replace(s, name=EVIL) for s in report.slices),
    )
    lost = LostTarget("rank", item=1, place=3, history=(1,), training_count=0)
    page = render_page(report, lost=[lost], titles=["", EVIL])
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 10


def test_a_page_without_samples_has_no_table_of_them() -> None:
    assert 'id="lost"' not in render_page(report_by_hand())


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "funnel.html"
    write_page(report_by_hand(), path)
    assert path.read_text(encoding="utf-8") == render_page(report_by_hand())
    assert list(tmp_path.iterdir()) == [path]


def test_titles_are_by_dense_item(store: Store) -> None:
    titles = item_titles(store)
    assert len(titles) == store.num_items + 1
    assert titles[1] == store.table("items", ["title"])["title"][0].as_py()


def test_flow_widths_are_proportional_to_shares() -> None:
    stages = [FlowStage("all", "", 1.0), FlowStage("one", "", 0.75, "x"), FlowStage("two", "", 0.25, "y")]
    root = ElementTree.fromstring(flow(stages, ["", "", ""], ["", "", ""], "title"))
    heights = [[float(r.get("height", 0)) for r in root if r.get("class") == css] for css in ("b-kept", "b-lost")]
    full = heights[0][0]
    assert [h / full for h in heights[0]] == pytest.approx([1, 0.75, 0.25], abs=1e-3)
    assert [h / full for h in heights[1]] == pytest.approx([0.25, 0.5], abs=1e-3)


@pytest.mark.parametrize(
    ("interval", "css"),
    [
        (Interval(0.02, 0.01, 0.03), "w-good"),
        (Interval(-0.02, -0.03, -0.01), "w-bad"),
        (Interval(0.01, -0.01, 0.03), "w-open"),
    ],
)
def test_a_gain_is_coloured_by_its_whole_interval(interval: Interval, css: str) -> None:
    circle = ElementTree.fromstring(whisker(interval, -0.05, 0.05, zero=True)).find("circle")
    assert circle is not None
    assert circle.get("class") == css


def test_a_curve_of_zeros_can_be_drawn() -> None:
    root = ElementTree.fromstring(curve([1, 10], [Line((0.0, 0.0), "line", "red")], 10, "title"))
    line = root.find("polyline")
    assert line is not None
    assert len(line.get("points", "").split()) == 2

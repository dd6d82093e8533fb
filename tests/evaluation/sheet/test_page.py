"""The page: one file that loads nothing, shows no text of the data as markup, and does without what is missing."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from penchant.data.store import Store
from penchant.evaluation.sheet.checks import REASSURANCE
from penchant.evaluation.sheet.examples import NUM_EVENTS, NUM_USERS, draw_examples
from penchant.evaluation.sheet.page import render_page, write_page
from penchant.evaluation.sheet.report import make_sheet, render_terminal
from tests.evaluation.sheet.stores import small_store
from tests.pages import check_form

EVIL = '"><script>alert(1)</script>'
DAY = 86_400_000
MB = 1_000_000


def check(page: str) -> None:
    """Well formed, and loads nothing."""
    check_form(page)
    assert not re.findall(r"url\(|@import|<script|<link|<iframe|\bhref=|\bsrc=\"(?!data:image/jpeg;base64,)", page)
    assert not re.findall(r"(?:https?:)?//", re.sub(r"base64,[\w+/=]+", "", page))


def noise(rng: np.random.Generator) -> bytes:
    """A picture that hardly shrinks."""
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (96, 72, 3), dtype=np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def page(store: Store) -> str:
    return render_page(make_sheet(store))


def test_the_page_is_well_formed_and_loads_nothing(page: str) -> None:
    check(page)


def test_the_page_shows_the_numbers(page: str, store: Store) -> None:
    sheet = make_sheet(store)
    text = re.sub(r"<[^>]+>", " ", page)
    for said in (
        f"{store.num_events:,}",
        store.fingerprint,
        sheet.events.splits[0].fingerprint,
        f"Gini {sheet.items.gini:.2f}",
        f"{sheet.events.splits[0].windows[-1].targets:,}",
        *(check.numbers for check in sheet.checks),
    ):
        assert said in re.sub(r"[ \n]+", " ", text)
    for section in ("impressions", "queries", "categories", "gaps", "time", "users", "items"):
        assert f'id="{section}"' in page


def test_pictures_are_shown_and_an_item_without_one_has_its_letter(page: str) -> None:
    assert page.count("<img") > 10
    assert 'class="blank"' in page


def test_strips_of_many_items_scroll_within_the_page(page: str) -> None:
    """A column that is as wide as what it holds would never let them."""
    assert ".people{display:grid;grid-template-columns:minmax(0,1fr)" in page
    assert re.search(r"\.strip\{[^}]*overflow-x:auto", page)


def test_synthetic_data_is_labelled_and_real_data_is_not(page: str, tmp_path: Path) -> None:
    events = [(1, 1, DAY), (1, 2, 2 * DAY)]
    made = small_store(tmp_path / "store", events, num_items=2, meta={"synthetic": True})
    assert '<span class="label">synthetic data</span>' in render_page(make_sheet(made))
    assert '<span class="label">synthetic data</span>' not in page


def test_text_of_the_data_is_escaped_everywhere(tmp_path: Path) -> None:
    refused = [{"reason": EVIL, "count": 2, "samples": [EVIL], "fix": EVIL}]
    meta = {"source": EVIL, "view": EVIL, "refused": refused, "notes": [EVIL]}
    items = {key: [EVIL, EVIL] for key in ("item_id", "title", "text", "category_path")}
    store = small_store(
        tmp_path / "store",
        [(1, 1, DAY), (1, 2, 2 * DAY)],
        num_items=2,
        items={**items, "category": [1, 1]},
        name=EVIL,
        meta=meta,
    )
    page = render_page(make_sheet(store))
    check(page)
    assert page.count("&lt;script&gt;") >= 15


def test_the_least_that_a_store_can_hold_makes_a_page(tmp_path: Path) -> None:
    for name, timed in (("timed", True), ("ordered", False)):
        store = small_store(tmp_path / name, [(1, 1, 5)], num_items=1, has_time=timed)
        page = render_page(make_sheet(store))
        check(page)
        for section in ("impressions", "queries", "categories", *(() if timed else ("gaps", "time"))):
            assert f'id="{section}"' not in page
        assert "<img" not in page


def test_a_page_is_bounded_whatever_the_data_show(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    num_items = NUM_USERS * NUM_EVENTS
    events = [(1 + n // NUM_EVENTS, 1 + n, DAY + n) for n in range(num_items)]
    items = {
        "title": ["long " * 10_000] * num_items,
        "text": ["long " * 10_000] * num_items,
        "image": [noise(rng) for _ in range(num_items)],
    }
    refused = [{"reason": "r" * 9000, "count": 1, "samples": ["s" * 9000] * 3, "fix": ""}] * 1000
    store = small_store(tmp_path / "store", events, num_items=num_items, items=items, meta={"refused": refused})
    page = render_page(make_sheet(store))
    assert page.count("<img") > num_items
    assert len(page.encode()) < 2 * MB


def test_a_broken_picture_is_left_out(tmp_path: Path) -> None:
    items = {"image": [b"no picture", noise(np.random.default_rng(0))]}
    store = small_store(tmp_path / "store", [(1, 1, DAY), (1, 2, 2 * DAY)], num_items=2, items=items)
    assert len(re.findall("<img", render_page(make_sheet(store)))) == 2  # in the user's history and among the items


def test_examples_are_drawn_by_the_seed(store: Store) -> None:
    counts = np.bincount(store.event_item, minlength=store.num_items + 1)
    names = [f"category {c}" for c in range(store.num_categories + 1)]
    one, same, other = (draw_examples(store, counts, names, seed) for seed in (0, 0, 1))
    assert one == same
    assert one != other
    user = one.users[0]
    number = store.user_ids.index(user.user_id)
    rows = range(store.user_indptr[number], store.user_indptr[number + 1])[-NUM_EVENTS:]
    titles = store.table("items")["title"].to_pylist()
    assert [item.title for item in user.items] == [titles[store.event_item[row] - 1] for row in rows]
    assert list(user.times_ms) == [int(store.event_ts_ms[row]) for row in rows]
    assert [item.part for item in one.items] == ["head"] * 4 + ["torso"] * 4 + ["tail"] * 4


def test_the_page_is_written_whole(store: Store, tmp_path: Path) -> None:
    sheet = make_sheet(store, now_ms=1_800_000_000_000)
    write_page(sheet, tmp_path / "sheet.html")
    assert (tmp_path / "sheet.html").read_text(encoding="utf-8") == render_page(sheet)


def test_the_terminal_names_what_does_not_hold(store: Store) -> None:
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(render_terminal(make_sheet(store)))
    said = console.export_text()
    assert "made-up" in said
    assert "Training ends before the test begins" in said
    assert REASSURANCE in " ".join(said.split())  # as the page says, which many read later or never
    assert REASSURANCE in render_page(make_sheet(store))

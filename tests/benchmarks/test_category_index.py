"""The bench of category searches: its judge agrees with exact search and sees what is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.environments import REQUIREMENTS
from benchmarks.serving import category_index as bench
from benchmarks.serving.category_index import Judge, Market

from penchant.evaluation.results import find_results
from penchant.index.category import CategoryIndex

ROOT = Path(__file__).parents[2]
K_SHORT, K_EACH = 20, 30


@pytest.fixture(scope="module")
def market() -> Market:
    return Market.generated(items=2500, categories=40, width=8, requests=3, asked=4)


@pytest.fixture
def lists(market: Market) -> tuple[np.ndarray, np.ndarray]:
    index = CategoryIndex(torch.from_numpy(market.vectors), torch.from_numpy(market.categories))
    short, interests, names = (torch.from_numpy(a) for a in (market.short, market.interests, market.names))
    found = index.search_all(short, interests, names, K_SHORT, K_EACH)
    return found.items.numpy(), found.short_items.numpy()


def test_the_market_is_the_same_on_every_call(market: Market) -> None:
    again = Market.generated(items=2500, categories=40, width=8, requests=3, asked=4)
    assert all(np.array_equal(a, b) for a, b in zip(vars(market).values(), vars(again).values(), strict=True))
    assert all(len(set(row)) == 4 for row in market.names.tolist())


def test_exact_lists_have_full_recall(market: Market, lists: tuple[np.ndarray, np.ndarray]) -> None:
    judged = Judge(market, K_SHORT, K_EACH).judged(*lists)
    assert {v for v in judged.values() if v is not None} == {1.0}


def test_items_that_are_missing_wrong_or_of_another_category_are_counted(
    market: Market, lists: tuple[np.ndarray, np.ndarray]
) -> None:
    judge = Judge(market, K_SHORT, K_EACH)
    items, short = lists
    short[0, :2] = 0
    worst = np.argsort(market.vectors[1:] @ market.short[1])[0] + 1
    short[1, 0] = worst
    items[0, 0, 0] = 0
    items[1, 1, 0] = np.flatnonzero(market.categories != market.names[1, 1])[1]
    judged = judge.judged(items, short)
    wanted = judge.wanted.sum()
    assert judged["Recall in the corpus"] == 1 - 3 / (3 * K_SHORT)
    assert judged["Recall in categories"] == pytest.approx(1 - 2 / wanted)
    assert judged["Valid items, of those there are"] == pytest.approx(1 - 2 / wanted)


def test_an_item_twice_in_a_list_is_refused(market: Market, lists: tuple[np.ndarray, np.ndarray]) -> None:
    lists[1][0, 1] = lists[1][0, 0]
    with pytest.raises(ValueError, match="twice"):
        Judge(market, K_SHORT, K_EACH).judged(*lists)


def test_every_library_has_a_script_and_an_environment() -> None:
    for library, script in bench.SCRIPTS.items():
        assert (ROOT / "benchmarks" / "peers" / f"{script}.py").is_file()
        assert library == "penchant" or library in REQUIREMENTS


@pytest.mark.slow
def test_a_small_run_leaves_result_files_and_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = [
        "--items",
        "600",
        "--categories",
        "9",
        "--width",
        "4",
        "--requests",
        "5",
        "--asked",
        "2",
        "--threads",
        "1",
        "--libraries",
        "penchant",
    ]
    monkeypatch.setattr(sys, "argv", ["x", *sizes, "--results", str(tmp_path / "r"), "--work", str(tmp_path / "w")])
    bench.main()
    rows = {result.row: result for result in find_results(tmp_path / "r")}
    assert rows["penchant-exact"].metrics["Recall in categories"] == 1
    assert all(result.synthetic for result in rows.values())
    capsys.readouterr()
    if "penchant-ann" in rows:
        bench.main()
        assert capsys.readouterr().out == "left: nothing\n"

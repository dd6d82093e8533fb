"""Search judged from the command line, on a small generated market."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from penchant.cli.main import main
from penchant.data.store import Store
from penchant.evaluation.search.systems import Sentence
from penchant.recipes import search
from tests.factories import make_store

TINY = ("--train.epochs", 1, "--model.width", 8)


def run(*args: object) -> int:
    return main([str(a) for a in args])


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("market")
    size = ("--size", "tiny", "--users", 80, "--days", 14, "--no-pictures")
    assert run("prepare", "bazaar", *size, "--out", folder / "store") == 0
    return folder / "store"


def letters(store: Store, device: str) -> Sentence:
    """A sentence encoder that counts letters."""

    def encode(texts: Sequence[str]) -> np.ndarray:
        return np.array([[text.lower().count(c) for c in "abcdefghijklmnopqrstuvwxyz"] for text in texts], np.float32)

    titles = store.table("items", ["title"])["title"].to_pylist()
    return Sentence(np.concatenate([np.zeros((1, 26), np.float32), encode(titles)]), encode)


def test_a_run_is_judged_beside_what_searches_without_a_user(
    market: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "sentence_of", letters)
    assert run("train", "sasrec", market, "--out", tmp_path / "walk", *TINY) == 0
    assert run("train", "popularity", market, "--out", tmp_path / "popular") == 0
    capsys.readouterr()
    assert run("evaluate", tmp_path / "walk", "--search", "--beside", tmp_path / "popular", "--targets", 40) == 0
    out = capsys.readouterr().out
    assert "synthetic" in out
    assert "A random 40 of" in out
    assert "True relevance of the first ten" in out
    told = json.loads((tmp_path / "walk" / "search-test-40.json").read_text())
    assert set(told["systems"]) == {
        "lexical search",
        "sentence encoder",
        "popularity in the matches",
        "walk",
        "walk in the matches",
        "popular",
        "popular in the matches",
        "oracle: relevance",
        "oracle: clicks",
    }
    assert "walk says nothing without a history, so it is not judged without the user." in told["notes"]
    assert (told["targets"], told["synthetic"], told["window"]) == (40, True, "test")
    metrics = {name: of["metrics"] for name, of in told["systems"].items()}
    assert metrics["popular in the matches"] == metrics["popularity in the matches"]
    assert metrics["walk in the matches"]["HR@10"] == metrics["walk"]["HR@10 matches"]
    most = metrics["oracle: relevance"]["Relevance@10"]
    assert 0 < metrics["walk"]["Relevance@10"] < metrics["lexical search"]["Relevance@10"] < most
    assert f"{metrics['oracle: clicks']['HR@10']:.4f}" in out
    assert "walk in the matches: HR@10 matches " in out
    users = pq.read_table(tmp_path / "walk" / "search-test-40.parquet")
    assert set(users["system"].to_pylist()) == set(metrics)
    mine = users.filter(np.array(users["system"].to_pylist()) == "walk")
    assert np.average(mine["HR@10"], weights=mine["weight"]) == pytest.approx(metrics["walk"]["HR@10"], rel=1e-5)


def test_no_run_is_needed_and_an_absent_encoder_is_left_out(
    market: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "search.json"
    assert run("evaluate", "--search", "--store", market, "--window", "valid", "--targets", 30, "--out", out) == 0
    told = json.loads(out.read_text())
    assert "sentence encoder" not in told["systems"]
    assert any("The sentence encoder is left out" in note and "penchant encode" in note for note in told["notes"])
    assert "penchant encode" in capsys.readouterr().out.replace("\n", " ")


def test_where_nobody_knows_the_truth_nothing_is_said_of_it(tmp_path: Path) -> None:
    made_up = make_store(tmp_path / "store", searches=True)
    out = tmp_path / "search.json"
    assert run("evaluate", "--search", "--store", made_up.path, "--out", out) == 0
    told = json.loads(out.read_text())
    assert set(told["systems"]) == {"lexical search", "popularity in the matches"}
    assert "Relevance@10" not in told["systems"]["lexical search"]["metrics"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--search",), "--search needs a run or --store"),
        (("run", "--search", "--filter-seen"), "--filter-seen would change nothing with --search"),
        (("run", "--search", "--split", "loo"), "--split loo would change nothing for a run"),
        (("run", "--out", "x.json"), "--out x.json would change nothing without --search"),
        (("run", "--search", "--targets", "0"), "--targets is 0"),
    ],
)
def test_what_would_change_nothing_is_refused(
    args: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", *args) == 2
    assert says in capsys.readouterr().err


def test_rankers_and_runs_of_other_splits_are_refused(
    market: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", "popularity", market, "--out", tmp_path / "popular") == 0
    assert run("train", "popularity", market, "--split", "funnel", "--out", tmp_path / "other") == 0
    assert run("evaluate", tmp_path / "popular", "--search", "--beside", tmp_path / "other") == 2
    assert "was trained on another Store or split" in capsys.readouterr().err
    assert run("train", "mean_pooling", market, "--out", tmp_path / "ranker", "--train.epochs", 1) == 0
    assert run("evaluate", tmp_path / "ranker", "--search") == 2
    assert "is a ranker" in capsys.readouterr().err

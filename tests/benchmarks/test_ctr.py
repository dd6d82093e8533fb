"""DIN beside a peer: each is given the impressions of each window with the past alone, and judged by what it wrote."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmarks.environments import REQUIREMENTS

from benchmarks import ctr
from penchant.data.split import Split, load_split
from penchant.data.store import Store
from penchant.errors import RunError, StoreError
from penchant.evaluation.results import find_results, read_per_user

MAX_LEN = 5


@pytest.fixture
def split(store: Store) -> Split:
    return load_split(store, ctr.SPLIT)


@pytest.fixture
def data(store: Store, split: Split, tmp_path: Path) -> Path:
    ctr.export_impressions(store, split, tmp_path / "data", MAX_LEN)
    return tmp_path / "data"


def test_each_window_is_given_its_impressions_and_no_others(store: Store, split: Split, data: Path) -> None:
    everything = store.table("impressions", ["request", "item", "label", "ts_ms"]).to_pydict()
    cuts = [-(2**62), *(split.cuts_ms or ()), 2**62]
    for window, low, high in zip(split.windows, cuts[:-1], cuts[1:], strict=True):
        given = pq.read_table(data / f"{window}.parquet").to_pydict()
        row = [i for i, at in enumerate(everything["ts_ms"]) if low <= at < high]
        assert row
        assert given["row"] == row
        for name in ("request", "item", "label"):
            assert given[name] == [everything[name][i] for i in row]


def test_histories_are_the_last_items_strictly_before_the_request(
    store: Store, split: Split, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    events = list(zip(store.event_user, store.event_ts_ms, store.event_item, strict=True))
    at_the_same_time = 0
    monkeypatch.setattr(ctr, "BLOCK", 7)
    ctr.export_impressions(store, split, tmp_path / "in blocks", MAX_LEN)
    for window in split.windows:
        table = pq.read_table(data / f"{window}.requests.parquet")
        assert table.equals(pq.read_table(tmp_path / "in blocks" / f"{window}.requests.parquet"))
        given = table.to_pydict()
        assert sorted(set(pq.read_table(data / f"{window}.parquet")["request"].to_pylist())) == given["request"]
        for request, history in zip(given["request"], given["history"], strict=True):
            user, time = store.request_user[request], store.request_ts_ms[request]
            assert history == [item for u, at, item in events if u == user and at < time][-MAX_LEN:]
            at_the_same_time += sum(u == user and at == time for u, at, _ in events)
    assert at_the_same_time


def test_a_limit_takes_whole_requests(store: Store, split: Split, tmp_path: Path) -> None:
    ctr.export_impressions(store, split, tmp_path / "few", MAX_LEN, limit=3)
    for window in split.windows:
        requests = pq.read_table(tmp_path / "few" / f"{window}.requests.parquet")["request"].to_numpy()
        assert len(requests) == 3
        shown = pq.read_table(tmp_path / "few" / f"{window}.parquet")["request"].to_numpy()
        assert np.array_equal(shown, np.repeat(requests, np.diff(store.request_indptr)[requests - 1]))


def write_scores(folder: Path, rows: np.ndarray, scores: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({"row": rows, "score": scores}), folder / "scores.parquet")


def test_scores_are_judged_in_the_order_of_the_impressions(store: Store, data: Path, tmp_path: Path) -> None:
    row = pq.read_table(data / "test.parquet")["row"].to_numpy()
    scores = np.random.default_rng(0).normal(size=len(row)) + store.impression_label[row]
    mixed = np.random.default_rng(1).permutation(len(row))
    write_scores(tmp_path / "out", row[mixed], scores[mixed])
    judged = ctr.judge(tmp_path / "out", data, store)
    assert np.array_equal(judged.logits, scores)
    assert np.array_equal(judged.labels, store.impression_label[row])
    request = np.array(store.table("impressions", ["request"])["request"].to_pylist())[row]
    assert np.array_equal(judged.requests, request)
    assert np.array_equal(judged.users, store.request_user[request])


@pytest.mark.parametrize("kept", [slice(1, None), [0, *range(100)]])
def test_a_missing_or_a_second_score_is_an_error(
    store: Store, data: Path, tmp_path: Path, kept: slice | list[int]
) -> None:
    row = pq.read_table(data / "test.parquet")["row"].to_numpy()[kept]
    write_scores(tmp_path / "out", row, np.zeros(len(row)))
    with pytest.raises(RunError, match=r"scores are not those of the test window"):
        ctr.judge(tmp_path / "out", data, store)


def call(monkeypatch: pytest.MonkeyPatch, store: Path, folder: Path, *more: str) -> None:
    places = ["--store", str(store), "--work", str(folder / "work"), "--results", str(folder / "results")]
    monkeypatch.setattr(sys, "argv", ["ctr", *places, "--rows", "penchant-din", "--seeds", "0", *more])
    ctr.main()


@pytest.mark.slow
def test_a_seed_runs_once_and_leaves_a_result_and_a_try_leaves_none(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(monkeypatch, store.path, tmp_path, "--limit", "20")
    assert "AUC" in capsys.readouterr().out
    assert find_results(tmp_path / "results") == []
    call(monkeypatch, store.path, tmp_path)
    (result,) = find_results(tmp_path / "results")
    assert (result.row, result.seed, result.config["library"]) == ("penchant-din", 0, "penchant")
    assert {"AUC", "GAUC request", "GAUC user", "LogLoss", "Rows per CPU s"} <= result.metrics.keys()
    users = read_per_user(tmp_path / "results", result)
    assert users is not None
    assert {"AUC", "LogLoss", "GAUC request", "GAUC user"} <= set(users.column_names)
    capsys.readouterr()
    call(monkeypatch, store.path, tmp_path)
    assert "finished before" in capsys.readouterr().out


def test_an_absent_store_is_named_with_the_way_to_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match=r"ml-1m.*penchant prepare movielens"):
        call(monkeypatch, tmp_path / "ml-1m", tmp_path)


def test_each_row_has_a_script_and_an_environment() -> None:
    peers = Path(ctr.__file__).parent / "peers"
    for library, script in ctr.ROWS.values():
        assert (peers / f"{script}.py").is_file()
        assert library == "penchant" or library in REQUIREMENTS

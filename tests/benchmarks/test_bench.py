"""The bench: peers learn from nothing but what lies before the test, and are judged as Penchant is."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmarks.environments import REQUIREMENTS, python_of
from benchmarks.exchange import export_events, judge
from benchmarks.rows import Row, every_row

from benchmarks import run as bench
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.errors import StoreError
from penchant.evaluation.results import find_results
from penchant.recipes.tables import PREPARE

ROOT = Path(__file__).parents[2]


def test_peers_are_given_every_event_but_the_targets(store: Store, tmp_path: Path) -> None:
    split = load_split(store, "loo")
    export_events(store, split, tmp_path / "events.parquet")
    given = pq.read_table(tmp_path / "events.parquet").to_pydict()
    told = list(zip(given["user_id"], given["item_id"], given["place"], strict=True))
    place = np.arange(store.num_events) - store.user_indptr[store.event_user]
    everything = {
        (store.user_ids[u], store.item_ids[i], int(p))
        for u, i, p in zip(store.event_user, store.event_item, place, strict=True)
    }
    targets = {
        (store.user_ids[store.event_user[e]], store.item_ids[store.event_item[e]], int(place[e]))
        for e in split.targets("test")
    }
    assert len(told) == len(set(told))
    assert set(told) == everything - targets


def test_lists_are_judged_among_all_items_and_among_the_unseen(store: Store, tmp_path: Path) -> None:
    split = load_split(store, "loo")
    events = split.targets("test")
    users = [store.user_ids[store.event_user[e]] for e in events]
    right = [store.item_ids[store.event_item[e]] for e in events]
    wrong = [next(i for i in store.item_ids[1:] if i != item) for item in right]

    for name, score in {"lists": 0.0, "unseen": 2.0}.items():  # of the right item; the wrong one has 1
        scores = [score] * len(users) + [1.0] * len(users)
        columns = {"user_id": users * 2, "item_id": right + wrong, "score": scores}
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    judged = judge(tmp_path, store, split)
    assert (judged.ranks == 2).all()
    assert judged.unseen_ranks is not None
    assert (judged.unseen_ranks == 1).all()


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("popularity", {}),
        ("item_knn", {"neighbours": 5}),
        (
            "sasrec",
            {
                **{"width": 8, "blocks": 1, "heads": 1, "dropout": 0.0, "max_len": 10},
                **{"epochs": 1, "seed": 0, "batch_targets": 200, "lr": 1e-2},
            },
        ),
    ],
)
@pytest.mark.slow
def test_a_row_runs_once_and_leaves_a_result_file(
    store: Store, tmp_path: Path, model: str, settings: dict[str, float]
) -> None:
    stores = tmp_path / "stores"
    stores.mkdir()
    (stores / "made-up").symlink_to(store.path)
    row = Row(table="peers", name="ours", data="made-up", library="penchant", model=model, settings=settings)
    bench.run(row, stores, tmp_path / "envs", tmp_path / "work", tmp_path / "results")
    (result,) = find_results(tmp_path / "results")
    assert result.data_fingerprint == store.fingerprint
    assert result.config["model"] == model
    assert {"HR@10", "HR@10 unseen", "Train CPU s", "Recommend CPU s", "Peak MB"} <= result.metrics.keys()
    assert ("Targets per CPU s" in result.metrics) == (model == "sasrec")
    assert not any("no list" in note for note in result.notes)


def test_an_absent_store_is_named_with_the_way_to_make_it(tmp_path: Path) -> None:
    row = replace(every_row()[0], data="ml-1m-all")
    with pytest.raises(StoreError, match=r"ml-1m-all.*penchant prepare movielens"):
        bench.run(row, tmp_path, tmp_path, tmp_path, tmp_path)


def test_a_dry_run_says_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["run", "--dry-run", "--tables", "sasrec", "--results", str(tmp_path)])
    bench.main()
    assert capsys.readouterr().out.startswith("4 left: sasrec/rectools-L50.ml-1m-all, sasrec/penchant-L50.ml-1m-all")


def test_every_row_has_a_name_a_store_a_script_and_an_environment(tmp_path: Path) -> None:
    rows = every_row()
    assert max(Counter((row.table, row.name, row.data) for row in rows).values()) == 1
    for row in rows:
        json.dumps(row.settings)
        assert row.data in PREPARE
        assert (ROOT / "benchmarks" / "peers" / f"with_{row.library}.py").is_file()
        assert row.library == "penchant" or row.library in REQUIREMENTS
    assert python_of("penchant", tmp_path) == Path(sys.executable)


def test_a_pair_differs_in_nothing_but_batches_and_learning_rate() -> None:
    rows = [row for row in every_row() if row.table == "peers" and row.name.endswith("-sasrec")]
    for data in {row.data for row in rows}:
        of = [row.settings for row in rows if row.data == data]
        for name in ("width", "blocks", "heads", "dropout", "max_len", "epochs", "seed"):
            assert len({settings[name] for settings in of}) == 1, name

"""Lists out and in: what we write reads back to the same numbers, and what others wrote is checked."""

from __future__ import annotations

from pathlib import Path

import ir_measures
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ir_measures import RR, Success, nDCG

from penchant.data.split import Split, load_split
from penchant.data.store import Store
from penchant.errors import DataError
from penchant.evaluation.lists import evaluate_lists, write_trec
from penchant.evaluation.protocol import evaluate_retrieval
from tests.evaluation.models import walker


@pytest.fixture
def loo(store: Store) -> Split:
    return load_split(store, "loo")


@pytest.mark.parametrize("name", ["loo", "temporal-successive"])
def test_a_run_written_and_read_again_has_the_same_ranks(store: Store, tmp_path: Path, name: str) -> None:
    split = load_split(store, name)
    ours = evaluate_retrieval(walker(store.num_items, whole=False), store, split, ks=(10, 50))
    write_trec(ours, store, tmp_path / "run.txt")
    read = evaluate_lists(tmp_path / "run.txt", store, split, ks=(10, 50))
    inside = ours.ranks <= 50
    assert np.array_equal(read.ranks[inside], ours.ranks[inside])
    assert np.isinf(read.ranks[~inside]).all()
    assert np.array_equal(read.lists, ours.lists)
    assert read.metrics() == ours.metrics()
    assert read.notes == ("Lists from run.txt.",)


def test_ir_measures_gives_the_exported_run_our_numbers(store: Store, loo: Split, tmp_path: Path) -> None:
    ours = evaluate_retrieval(walker(store.num_items, whole=False), store, loo, ks=(10,))
    write_trec(ours, store, tmp_path / "run.txt")
    qrels = [
        ir_measures.Qrel(f"{store.user_ids[u]}:{e}", store.item_ids[i], 1)
        for u, e, i in zip(ours.users, ours.events, ours.items, strict=True)
    ]
    theirs = ir_measures.calc_aggregate(
        [Success @ 10, nDCG @ 10, RR @ 10], qrels, ir_measures.read_trec_run(str(tmp_path / "run.txt"))
    )
    for ours_name, measure in {"HR@10": Success @ 10, "NDCG@10": nDCG @ 10, "MRR@10": RR @ 10}.items():
        assert ours.metrics()[ours_name] == pytest.approx(theirs[measure])


def parquet(path: Path, **columns: list) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def target_ids(store: Store, loo: Split) -> tuple[list[str], list[str]]:
    events = loo.targets("test")
    return [store.user_ids[u] for u in store.event_user[events]], [store.item_ids[i] for i in store.event_item[events]]


def test_a_parquet_list_is_its_users_list_for_all_targets(store: Store, tmp_path: Path) -> None:
    split = load_split(store, "temporal-successive")
    events = split.targets("test")
    user = store.user_ids[store.event_user[events[0]]]
    path = parquet(tmp_path / "l.parquet", user_id=[user] * 3, item_id=["i5", "i6", "i7"], rank=[1, 2, 3])
    found = evaluate_lists(path, store, split)
    place = {5: 1.0, 6: 2.0, 7: 3.0}
    for event, rank in zip(events, found.ranks, strict=True):
        mine = store.event_user[event] == store.event_user[events[0]]
        assert rank == (place.get(int(store.event_item[event]), np.inf) if mine else np.inf)


def test_scores_decide_before_ranks_and_ties_share_their_place(store: Store, loo: Split, tmp_path: Path) -> None:
    users, items = target_ids(store, loo)
    other = next(i for i in store.item_ids[1:] if i != items[0])
    columns = {"user_id": [users[0]] * 2, "item_id": [items[0], other], "rank": [2, 1]}
    better = parquet(tmp_path / "a.parquet", **columns, score=[0.9, 0.1])
    tied = parquet(tmp_path / "b.parquet", **columns, score=[0.5, 0.5])
    assert evaluate_lists(better, store, loo).ranks[0] == 1.0
    assert evaluate_lists(tied, store, loo).ranks[0] == 1.5


def test_unknown_names_are_counted_and_named_and_an_unknown_item_keeps_its_place(
    store: Store, loo: Split, tmp_path: Path
) -> None:
    users, items = target_ids(store, loo)
    (tmp_path / "run").write_text(
        f"{users[0]} Q0 nonsense 1 9.0 x\n{users[0]} Q0 {items[0]} 2 8.0 x\nnobody Q0 {items[0]} 1 9.0 x\n"
    )
    found = evaluate_lists(tmp_path / "run", store, loo)
    assert found.ranks[0] == 2.0
    assert found.lists[0, 0] == 0
    assert "1 unknown user: nobody." in found.notes
    assert "1 unknown item: nonsense." in found.notes
    assert found.unanswered == len(users) - 1
    assert any("targets have no list" in note for note in found.notes)


def test_an_item_twice_in_a_list_is_refused_with_its_line(store: Store, loo: Split, tmp_path: Path) -> None:
    users, _ = target_ids(store, loo)
    lines = [f"{users[0]} Q0 i1 1 3 x", f"{users[1]} Q0 i1 1 3 x", f"{users[0]} Q0 i2 2 2 x", f"{users[0]} Q0 i1 3 1 x"]
    (tmp_path / "run").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=f"run, line 4: item 'i1' is twice in the list of '{users[0]}'"):
        evaluate_lists(tmp_path / "run", store, loo)
    path = parquet(tmp_path / "l.parquet", user_id=["u1", "u1"], item_id=["i1", "i1"], rank=[1, 2])
    with pytest.raises(DataError, match="row 1: item 'i1' is twice"):
        evaluate_lists(path, store, loo)


@pytest.mark.parametrize("line", ["u1 Q0 i1 1 high x", "u1 Q0 i1 1", "u1 Q0 i1 1 nan x", ""])
def test_a_broken_line_is_named(store: Store, loo: Split, tmp_path: Path, line: str) -> None:
    (tmp_path / "run").write_text(f"u1 Q0 i1 1 2.0 x\n{line}\n")
    with pytest.raises(DataError, match="run, line 2: not a TREC run line"):
        evaluate_lists(tmp_path / "run", store, loo)


def test_files_that_hold_no_lists_are_refused(store: Store, loo: Split, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    with pytest.raises(DataError, match="no lists"):
        evaluate_lists(tmp_path / "empty", store, loo)
    with pytest.raises(DataError, match="cannot be read"):
        evaluate_lists(tmp_path / "missing", store, loo)
    with pytest.raises(DataError, match="lacks item_id, rank or score, it has user_id, x"):
        evaluate_lists(parquet(tmp_path / "a.parquet", user_id=["u1"], x=[1]), store, loo)
    with pytest.raises(DataError, match="row 1: no item_id"):
        evaluate_lists(
            parquet(tmp_path / "b.parquet", user_id=["u1", "u1"], item_id=["i1", None], rank=[1, 2]), store, loo
        )
    with pytest.raises(DataError, match="rank is not a number"):
        evaluate_lists(parquet(tmp_path / "c.parquet", user_id=["u1"], item_id=["i1"], rank=["first"]), store, loo)


def test_ids_with_blanks_and_colons_survive_the_run_file(store: Store, loo: Split, tmp_path: Path) -> None:
    ours = evaluate_retrieval(walker(store.num_items, whole=False), store, loo, ks=(10,))
    odd = Store(store.path)
    odd.user_ids = [u and f"{u}:7 %" for u in store.user_ids]
    odd.item_ids = [i and f"{i} \t:%20" for i in store.item_ids]
    write_trec(ours, odd, tmp_path / "run")
    read = evaluate_lists(tmp_path / "run", odd, loo, ks=(10,))
    assert np.array_equal(read.lists, ours.lists)
    with pytest.raises(ValueError, match="one word"):
        write_trec(ours, odd, tmp_path / "run", tag="two words")

"""The funnel's recipe: no stage sees another's window, a cut run goes on, the report adds up."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import penchant
from penchant.data.history import requests_before_events, requests_before_times
from penchant.data.output import alone
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.errors import ConfigError, RunError, StoreError
from penchant.evaluation.funnel.report import FunnelReport
from penchant.funnel.fusion import WEIGHTS
from penchant.funnel.pipeline import Funnel, load_funnel
from penchant.funnel.rank import ModelScorer
from penchant.funnel.similarity import SERVING, TRAINING
from penchant.recipes import controls
from penchant.recipes.funnel import plan
from penchant.recipes.funnel import run as recipe
from penchant.recipes.funnel.demo import demo_funnel
from penchant.recipes.named import funnel_by
from penchant.recipes.runs import CountRun
from penchant.recipes.t2diff.causal import CausalT2DiffRun, t2diff_causal
from penchant.training.candidates import CandidateArrays
from tests.factories import make_store


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("funnel") / "store", num_users=150, num_items=120, seed=2)


def test_the_demo_finds_by_the_papers_and_by_what_they_have_to_beat() -> None:
    plain, with_karma = demo_funnel(), demo_funnel(with_karma=True)
    kinds = {channel.name: channel.run.kind for channel in plain.channels}
    assert kinds["t2diff"] == "t2diff_causal"
    assert kinds["ulim"] == "ulim"
    assert {"sasrec", "item_knn", "popularity"} < set(kinds)
    assert (plain.rank_kind, plain.fuse) == ("auto", None)
    assert {c.name for c in with_karma.channels} == {*kinds, "karma"}
    assert with_karma.fuse == with_karma.features_from == "karma"
    longest = max(getattr(getattr(c.run, "model", None), "max_len", 0) for c in plain.channels)
    assert plain.settings.max_history >= longest


def small() -> plan.FunnelRun:
    run = plan.shortened(plan.funnel(), 2.0)
    settings = replace(run.settings, merged_size=60, preranked_size=20, list_size=10)
    return replace(run, settings=settings)


def test_items_had_before_are_shown_where_people_come_back_to_them(market: Store, tmp_path: Path) -> None:
    split, said = load_split(market, "funnel"), Console(record=True, width=200)
    events = split.events("train")
    repeated = sum(
        market.event_item[e] in market.event_item[market.user_indptr[market.event_user[e]] : e] for e in events
    )
    assert repeated / len(events) >= plan.REPEATING
    assert not plan.settled(small(), market, split, said).settings.exclude_seen
    assert f"{repeated / len(events):.0%} of the training clicks" in said.export_text()
    asked = replace(small(), settings=replace(small().settings, exclude_seen=True))
    assert plan.settled(asked, market, split) is asked
    once = make_store(tmp_path / "store", num_users=12, num_items=800)
    assert plan.settled(small(), once, load_split(once, "funnel")).settings.exclude_seen


@pytest.fixture(scope="module")
def trained(market: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[recipe.TrainedFunnel, Path]:
    out = tmp_path_factory.mktemp("funnel-run") / "run"
    split = load_split(market, "funnel")
    funnel = recipe.train_funnel(small(), market, split, out)
    report = recipe.judge_funnel(funnel, market, split, out, config={"a.b": 1})
    return recipe.TrainedFunnel(funnel, market, report), out


@pytest.fixture(scope="module")
def fused(
    market: Store, trained: tuple[recipe.TrainedFunnel, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Funnel, Path]:
    """The same channels and pre-ranker, its scores fused with SASRec's, whose similarities the ranker reads."""
    out = tmp_path_factory.mktemp("fused-run") / "run"
    for part in ("channels", "prerank", "candidates/rank", "candidates/valid"):
        shutil.copytree(trained[1] / part, out / part)
    run = replace(small(), fuse="sasrec", features_from="sasrec")
    return recipe.train_funnel(run, market, load_split(market, "funnel"), out), out


def test_report_is_written_and_reads_back(trained: tuple[recipe.TrainedFunnel, Path]) -> None:
    funnel, out = trained
    assert FunnelReport.from_json((out / "report.json").read_text()) == funnel.report
    assert "<svg" in (out / "report.html").read_text()


def test_without_content_the_ranker_is_din(trained: tuple[recipe.TrainedFunnel, Path]) -> None:
    assert json.loads((trained[1] / "rank" / "model.json").read_text())["kind"] == "din"


def test_candidates_come_from_the_window_no_channel_trained_on(
    market: Store, trained: tuple[recipe.TrainedFunnel, Path]
) -> None:
    split = load_split(market, "funnel")
    for window in ("rank", "valid"):
        events = CandidateArrays.load(trained[1] / "candidates" / window).events
        assert np.isin(events, split.events(window)).all()
        assert not np.isin(events, split.events("train")).any()


def test_loaded_funnel_answers_as_the_trained_one(market: Store, trained: tuple[recipe.TrainedFunnel, Path]) -> None:
    events = load_split(market, "funnel").targets("test")[:20]
    requests = requests_before_events(market, events, 50)
    ours, loaded = trained[0].funnel.recommend(requests), load_funnel(trained[1]).recommend(requests)
    assert torch.equal(ours.items, loaded.items)
    torch.testing.assert_close(ours.scores, loaded.scores)


def test_funnel_that_another_process_trains_is_left_alone(market: Store, tmp_path: Path) -> None:
    with alone(tmp_path, RunError, inside=True):
        with pytest.raises(RunError, match=f"{tmp_path}: another process is at work on it"):
            recipe.run_funnel(small(), market, load_split(market, "funnel"), tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["lock"]


def test_a_folder_that_is_no_funnel_is_refused_and_left_as_it_was(market: Store, tmp_path: Path) -> None:
    (tmp_path / "channels").mkdir()  # may be laid there before
    recipe.check_out(tmp_path, "channels")
    (tmp_path / "notes").touch()
    with pytest.raises(RunError, match=r"is no run, it holds notes\. Choose another --out"):
        recipe.run_funnel(small(), market, load_split(market, "funnel"), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["channels", "notes"]


def test_finished_funnel_is_not_trained_again(market: Store, trained: tuple[recipe.TrainedFunnel, Path]) -> None:
    out = trained[1]
    files = {p: p.stat().st_mtime_ns for p in out.rglob("model.safetensors")}
    recipe.train_funnel(small(), market, load_split(market, "funnel"), out)
    assert {p: p.stat().st_mtime_ns for p in out.glob("channels/*/model.safetensors")}.items() <= files.items()


def test_tables_out_for_known_and_unknown_users(trained: tuple[recipe.TrainedFunnel, Path]) -> None:
    table = trained[0].recommend(["u1", "nobody"], k=5)
    assert table.column_names == ["user_id", "rank", "item_id", "title", "score"]
    assert table["user_id"].to_pylist() == ["u1"] * 5 + ["nobody"] * 5
    assert table["rank"].to_pylist() == [1, 2, 3, 4, 5] * 2
    assert len(set(table["item_id"].to_pylist()[:5])) == 5


def test_one_users_name_is_no_list_of_letters(trained: tuple[recipe.TrainedFunnel, Path]) -> None:
    with pytest.raises(ConfigError, match=r"Give a list: \['u1'\]"):
        trained[0].recommend("u1")


def test_what_a_stage_reads_is_looked_for_before_the_first_is_trained(market: Store, tmp_path: Path) -> None:
    ranked, found = replace(small(), rank_kind="dmae"), funnel_by(["karma"])
    for run in (ranked, found):
        with pytest.raises(StoreError, match="no content vectors named 'text'"):
            recipe.train_funnel(run, market, load_split(market, "funnel"), tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_from_python_a_store_is_named_by_its_folder_too(market: Store, tmp_path: Path) -> None:
    run = penchant.train(market.path, "popularity", out=tmp_path / "run")
    assert run.store.fingerprint == market.fingerprint
    with pytest.raises(StoreError, match="no Store here"):
        penchant.train_funnel(str(tmp_path / "nowhere"), out=tmp_path / "funnel")


def test_more_items_than_reach_the_ranker_are_refused(trained: tuple[recipe.TrainedFunnel, Path]) -> None:
    with pytest.raises(ConfigError, match="Ask for 1 to 20"):
        trained[0].recommend(["u1"], k=21)


def test_users_ask_right_after_the_last_thing_they_did(
    market: Store, trained: tuple[recipe.TrainedFunnel, Path]
) -> None:
    last = market.user_indptr[2] - 1  # of user 1
    requests = requests_before_times(market, np.array([1]), market.event_ts_ms[[last]] + 1, 50)
    expected = trained[0].funnel.recommend(requests, 5).items[0].tolist()
    table = trained[0].recommend([market.user_ids[1]], k=5)
    assert table["item_id"].to_pylist() == [market.item_ids[i] for i in expected]


def test_one_seed_reaches_every_part() -> None:
    run = plan.seeded(replace(small(), seed=7))
    seeds = {c.run.train.seed for c in run.channels if not isinstance(c.run, CountRun)}
    assert seeds | {run.prerank_train.seed, run.rank_train.seed} == {7}


def test_no_list_was_cut_by_a_pre_ranker_that_had_seen_its_click(
    market: Store, trained: tuple[recipe.TrainedFunnel, Path]
) -> None:
    for name, parity in (("odd", 1), ("even", 0)):
        cut = CandidateArrays.load(trained[1] / "candidates" / f"preranked-{name}")
        assert (market.event_user[cut.events] % 2 == parity).all()
        assert cut.items.shape[1] <= 20


def test_fusion_keeps_at_least_what_the_pre_ranker_kept_on_validation(
    market: Store, trained: tuple[recipe.TrainedFunnel, Path], fused: tuple[Funnel, Path]
) -> None:
    fusion = fused[0].fusion
    assert fusion is not None
    tried = dict(fusion.tried)
    assert tuple(tried) == WEIGHTS
    assert tried[fusion.weight] == max(tried.values()) >= tried[0.0]
    lines = (trained[1] / "prerank" / "metrics.jsonl").read_text().splitlines()
    reached = [line["valid/hr"] for line in map(json.loads, lines) if "valid/hr" in line]
    assert tried[0.0] == pytest.approx(max(reached)), "the pre-ranker's own metric"
    events = CandidateArrays.load(fused[1] / "candidates" / "valid").events
    requests = requests_before_events(market, events, small().settings.max_history)
    kept = fused[0].run(requests).preranked.items.numpy() == market.event_item[events][:, None]
    assert kept.any(1).mean() == pytest.approx(tried[fusion.weight])


def test_loaded_funnel_fuses_as_the_trained_one(market: Store, fused: tuple[Funnel, Path]) -> None:
    events = load_split(market, "funnel").targets("test")[:20]
    requests = requests_before_events(market, events, 50)
    ours, loaded = fused[0].run(requests), load_funnel(fused[1]).run(requests)
    assert loaded.unfused is not None
    assert torch.equal(ours.preranked.items, loaded.preranked.items)
    assert torch.equal(ours.ranked.items, loaded.ranked.items)


def test_ranker_learns_from_lists_that_were_fused(
    trained: tuple[recipe.TrainedFunnel, Path], fused: tuple[Funnel, Path]
) -> None:
    assert fused[0].fusion is not None
    assert fused[0].fusion.weight > 0, "else this test says nothing"
    plain, other = (CandidateArrays.load(out / "candidates" / "preranked-odd") for out in (trained[1], fused[1]))
    assert np.array_equal(plain.events, other.events)
    assert not np.array_equal(plain.items, other.items)


def test_ranker_is_chosen_by_the_fused_lists_it_serves(market: Store, fused: tuple[Funnel, Path]) -> None:
    events = CandidateArrays.load(fused[1] / "candidates" / "valid").events
    requests = requests_before_events(market, events, small().settings.max_history)
    hit = fused[0].run(requests).ranked.items[:, :10].numpy() == market.event_item[events][:, None]
    ndcg = (hit / np.log2(np.arange(2, 12))).sum(1).mean()
    lines = (fused[1] / "rank" / "metrics.jsonl").read_text().splitlines()
    reached = [line["valid/ndcg"] for line in map(json.loads, lines) if "valid/ndcg" in line]
    assert max(reached) == pytest.approx(ndcg, abs=1e-6)


@pytest.mark.parametrize("field", ["fuse", "features_from"])
@pytest.mark.parametrize("name", ["missing", "popularity"])
def test_vectors_of_a_channel_that_is_not_there_or_counts_are_refused(field: Any, name: str) -> None:
    message = rf"{field}: '{name}' .*'popularity'\]. Choose one of those with vectors: sasrec"
    with pytest.raises(ConfigError, match=message):
        replace(small(), **{field: name})


@pytest.mark.parametrize("field", ["fuse", "features_from"])
def test_a_channel_whose_guesses_each_search_by_themselves_has_no_one_vector(field: Any) -> None:
    def with_fallback(run: CausalT2DiffRun) -> plan.FunnelRun:
        return plan.funnel_of({"guesses": run, "popularity": controls.popularity()})

    one = t2diff_causal()
    union = replace(one, model=replace(one.model, union=True))
    replace(with_fallback(one), **{field: "guesses"})
    with pytest.raises(ConfigError, match=f"{field}: 'guesses' is no channel of vectors.*there is none"):
        replace(with_fallback(union), **{field: "guesses"})


def test_only_the_ranker_reads_similarities(fused: tuple[Funnel, Path]) -> None:
    loaded = load_funnel(fused[1])
    assert isinstance(loaded.prerank, ModelScorer)
    assert isinstance(loaded.rank, ModelScorer)
    assert loaded.prerank.features.similarity is None
    assert loaded.rank.features.similarity is not None
    trained = fused[0].fusion
    assert trained is not None
    assert trained.similarity.remembered == TRAINING
    assert loaded.rank.features.similarity.remembered == SERVING, "no request of a server comes back"
    assert loaded.rank.features.similarity.model is loaded.retrievers[0].model, "the channel's own, not a second one"  # pyright: ignore[reportAttributeAccessIssue]

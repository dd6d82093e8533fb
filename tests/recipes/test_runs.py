"""Recipes: every control trains, is judged, resumes, and refuses what is not its own."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from penchant.baselines.ranking.content import ContentRankerConfig
from penchant.data.output import alone
from penchant.data.split import Split, load_split
from penchant.data.store import Store
from penchant.errors import ConfigError, RunError, StoreError
from penchant.evaluation.metrics import GroupAUC, auc
from penchant.evaluation.protocol import evaluate_retrieval
from penchant.evaluation.slices import popularity_slices
from penchant.funnel.features import SIMILARITY_FEATURES, Features
from penchant.funnel.retrieve import retriever
from penchant.funnel.similarity import similarities
from penchant.recipes import controls, runs
from penchant.recipes.dmae import run as dmae
from penchant.recipes.judge import judge_run, metrics_table, with_gauc
from penchant.recipes.karma.generated import GeneratedRun
from penchant.recipes.karma.run import KarmaRun
from penchant.recipes.named import RECIPES, recipe_of
from penchant.recipes.runs import CountRun, RankingRun, Run, SequenceRun, flat, load_features, load_run, train_run
from penchant.recipes.t2diff import baselines
from penchant.recipes.t2diff.causal import t2diff_causal
from penchant.training.impressions import ImpressionBatches, evaluate_impressions
from tests.factories import give_vectors, make_store

RANKERS = [recipe.__name__ for recipe in controls.RANKING]
AUXILIARY = {"decode_text", "contrast", "reconstruct", "cooccurrence"}


def short(run: Run, epochs: float = 2.0) -> Run:
    """The same run, small enough for a test."""
    if isinstance(run, CountRun):
        return run
    return replace(run, train=replace(run.train, epochs=epochs, tensorboard=False, device="cpu"))


@pytest.mark.parametrize("name", [*(r.__name__ for r in (*controls.RETRIEVAL, *baselines.RETRIEVAL)), *RANKERS])
def test_every_recipe_trains_and_is_judged(store: Store, tmp_path: Path, name: str) -> None:
    split = load_split(store, "temporal-successive")
    train_run(short(recipe_of(name)), store, split, tmp_path)
    verdict = judge_run(load_run(tmp_path, device="cpu"), tmp_path)
    metrics = verdict.metrics()
    assert 0 < metrics["AUC" if name in RANKERS else "HR@50"] <= 1
    assert verdict.per_user().column_names[:2] == ["user", "weight"]
    assert metrics_table(verdict.result).row_count > 3
    verdict.write(tmp_path / "evaluation.json")
    assert json.loads((tmp_path / "evaluation.json").read_text())["split_fingerprint"] == split.fingerprint


@pytest.fixture(scope="module")
def with_vectors(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The same market, with made-up vectors of texts and pictures."""
    path = tmp_path_factory.mktemp("vectors") / "store"
    shutil.copytree(store.path, path)
    copied = Store(path)
    give_vectors(copied)
    return copied


HALF = [r.__name__ for r in RECIPES if not isinstance(recipe_of(r.__name__), CountRun | KarmaRun | GeneratedRun)]


@pytest.mark.parametrize("name", HALF)
def test_every_recipe_trains_in_bfloat16(with_vectors: Store, tmp_path: Path, name: str) -> None:
    run = short(recipe_of(name), 0.2)
    assert not isinstance(run, CountRun)
    run = replace(run, train=replace(run.train, precision="bfloat16"))
    split = load_split(with_vectors, "temporal-successive")
    assert train_run(run, with_vectors, split, tmp_path).steps > 0
    assert all(p.dtype == torch.float32 for p in load_run(tmp_path, device="cpu").model.parameters())


@pytest.mark.parametrize("name", [recipe.__name__ for recipe in dmae.RANKING])
def test_every_ranker_that_reads_content_trains_and_is_judged_where_there_are_vectors(
    store: Store, with_vectors: Store, tmp_path: Path, name: str
) -> None:
    run = short(recipe_of(name), 0.3)
    assert isinstance(run, RankingRun)
    assert isinstance(run.model, ContentRankerConfig)
    split = load_split(with_vectors, "temporal-successive")
    train_run(run, with_vectors, split, tmp_path / "run")
    loaded = load_run(tmp_path / "run", device="cpu")
    assert loaded.model.config.content_widths == (12,) * len(run.model.modalities)
    assert loaded.model.content.present.any(1).all()
    assert 0 < judge_run(loaded, tmp_path / "run").metrics()["AUC"] <= 1
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    terms = {term for line in logged for term in line}
    assert "click" in terms
    assert (run.objective is None) == terms.isdisjoint(AUXILIARY)
    with pytest.raises(
        StoreError, match=f"no content vectors named 'text'.* Make them with `penchant encode {store.path}"
    ):
        train_run(run, store, load_split(store, "temporal-successive"), tmp_path / "without")


def test_learned_control_beats_popularity_where_order_can_be_learned(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", num_users=200, num_items=60, seed=4)
    split = load_split(store, "loo")
    run = controls.gru4rec()
    run = replace(run, data=replace(run.data, batch_targets=500), train=replace(run.train, epochs=12.0))
    train_run(short(run, 12.0), store, split, tmp_path / "gru")
    train_run(controls.popularity(), store, split, tmp_path / "popularity")
    learned, popular = (
        evaluate_retrieval(load_run(tmp_path / k).model, store, split, ks=(10,)).metrics()["HR@10"]
        for k in ("gru", "popularity")
    )
    assert learned > popular + 0.1


def test_a_ranking_result_says_where_its_non_clicks_come_from(store: Store, tmp_path: Path) -> None:
    split = load_split(store, "temporal-successive")
    train_run(short(controls.mean_pooling(), 0.2), store, split, tmp_path)
    verdict = judge_run(load_run(tmp_path, device="cpu"), tmp_path)
    (note,) = verdict.notes()
    shown = store.impression_label[
        np.isin(
            np.repeat(np.arange(1, store.num_requests + 1), np.diff(store.request_indptr)),
            split.requests(store, "test"),
        )
    ]
    assert note == f"Non-clicks by source: synthetic {(shown == 0).sum():,}."


def test_a_rankers_auc_is_told_for_popular_rare_and_new_items(store: Store, tmp_path: Path) -> None:
    split = load_split(store, "temporal-successive")
    train_run(short(controls.mean_pooling(), 0.2), store, split, tmp_path)
    loaded = load_run(tmp_path, device="cpu")
    by_item = judge_run(loaded, tmp_path).slices()["item"]
    shown = evaluate_impressions(loaded.model, load_features(tmp_path), store, split, "test")
    counts = split.item_counts(store)
    cold = counts[shown.items] == 0
    expected = {name: members[shown.items].sum() for name, members in popularity_slices(counts).items()}
    assert {name: part["impressions"] for name, part in by_item.items()} == {k: n for k, n in expected.items() if n}
    rest = [by_item[name]["impressions"] for name in by_item if name != "cold"]
    assert sum(rest) == (~cold).sum()
    inside = popularity_slices(counts)["tail"][shown.items]
    assert by_item["tail"]["AUC"] == auc(shown.labels[inside], shown.scores[inside])


def test_gauc_of_what_was_shown_has_users_and_weights_of_its_own(store: Store, tmp_path: Path) -> None:
    split = load_split(store, "temporal-successive")
    train_run(short(controls.two_tower(), 0.5), store, split, tmp_path)
    verdict = judge_run(load_run(tmp_path, device="cpu"), tmp_path, targets=30, meaning=True)
    table = verdict.per_user()
    columns = {name: table[name].to_numpy().astype(np.float64) for name in table.column_names}
    metrics = verdict.metrics()
    for name, weight in (("GAUC request", "GAUC request weight"), ("HR@10", "weight"), ("JS@50", "weight")):
        assert np.average(columns[name], weights=columns[weight]) == pytest.approx(metrics[name], abs=1e-5)
    assert len(np.unique(columns["user"])) == table.num_rows
    assert (columns["weight"] == 0).any()  # shown something, and no target of the subsample


def test_each_anonymous_request_is_a_user_of_its_own() -> None:
    table = pa.table({"user": pa.array([3], pa.int32()), "weight": [1.0], "HR@10": [1.0]})
    shown = GroupAUC(0.5, np.arange(3), np.array([0.25, 0.5, 1.0]), np.array([2, 4, 8]), 0)
    told = with_gauc(table, shown, np.array([0, 3, 0]))
    assert told["user"].to_pylist() == [-3, -1, 3]
    assert told["GAUC request"].to_pylist() == [1.0, 0.25, 0.5]
    assert told["GAUC request weight"].to_pylist() == [8, 2, 4]
    assert told["weight"].to_pylist() == [0, 0, 1]


def test_finished_run_is_not_trained_again(store: Store, tmp_path: Path) -> None:
    split = load_split(store, "loo")
    run = short(controls.gru4rec())
    first = train_run(run, store, split, tmp_path)
    assert not [*tmp_path.glob("checkpoint*"), *tmp_path.glob("best-*")]
    (tmp_path / "checkpoint-7").mkdir()  # a kill came right after the result
    written = (tmp_path / "model.safetensors").stat().st_mtime_ns
    assert train_run(run, store, split, tmp_path) == first
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == written
    assert not (tmp_path / "checkpoint-7").exists()


@pytest.mark.parametrize("name", ["popularity", "gru4rec", "din"])
def test_folder_that_another_process_trains_in_is_left_alone(store: Store, tmp_path: Path, name: str) -> None:
    split = load_split(store, "temporal-successive")
    with alone(tmp_path, RunError, inside=True):
        with pytest.raises(RunError, match=f"{tmp_path}: another process is at work on it"):
            train_run(short(recipe_of(name)), store, split, tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["lock"]


def test_folder_of_another_run_is_refused(store: Store, tmp_path: Path) -> None:
    split = load_split(store, "loo")
    train_run(controls.popularity(), store, split, tmp_path)
    with pytest.raises(RunError, match=r"model\.window_days was None, now 30\.0"):
        train_run(controls.recent_popularity(), store, split, tmp_path)
    with pytest.raises(RunError, match=f"split was '{split.fingerprint}', now "):
        train_run(controls.popularity(), store, load_split(store, "temporal-last"), tmp_path)


@pytest.mark.parametrize("theirs", ["notes.tmp-1.txt", "b/model.json.tmp-1"])
def test_a_folder_that_is_no_run_is_refused_and_left_as_it_was(store: Store, tmp_path: Path, theirs: str) -> None:
    (tmp_path / theirs).parent.mkdir(exist_ok=True)
    (tmp_path / theirs).write_text("theirs")
    with pytest.raises(RunError, match=r"is no run, it holds (notes\.tmp-1\.txt|b)\. Choose another --out"):
        train_run(controls.popularity(), store, load_split(store, "loo"), tmp_path)
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()] == [theirs]


def test_a_run_that_was_killed_as_it_began_goes_on(store: Store, tmp_path: Path) -> None:
    for left in ("lock", "run.json.tmp-1"):
        (tmp_path / left).touch()
    train_run(controls.popularity(), store, load_split(store, "loo"), tmp_path)
    assert not (tmp_path / "run.json.tmp-1").exists()


def test_run_of_another_store_is_refused(store: Store, tmp_path: Path) -> None:
    train_run(controls.popularity(), store, load_split(store, "loo"), tmp_path / "run")
    other = make_store(tmp_path / "other", seed=9)
    with pytest.raises(RunError, match="another Store"):
        load_run(tmp_path / "run", other.path)
    with pytest.raises(RunError, match="no finished run"):
        load_run(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["run.json", "result.json"])
def test_a_damaged_file_of_a_run_is_named(store: Store, tmp_path: Path, name: str) -> None:
    split = load_split(store, "loo")
    train_run(controls.popularity(), store, split, tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:20])
    says = rf"{name}: damaged or cut short \(.*\)\. Remove the run's folder and train it again\."
    with pytest.raises(RunError, match=says):
        load_run(tmp_path, store.path)
    with pytest.raises(RunError, match=says):
        train_run(controls.popularity(), store, split, tmp_path)


def test_pieces_of_another_length_than_the_model_reads_are_refused(store: Store, tmp_path: Path) -> None:
    run = controls.sasrec()
    run = replace(run, data=replace(run.data, max_len=60))
    with pytest.raises(ConfigError, match=r"data\.max_len is 60, model\.max_len 50"):
        train_run(run, store, load_split(store, "loo"), tmp_path)


def test_same_seed_same_weights_other_seed_other_weights(store: Store, tmp_path: Path) -> None:
    split = load_split(store, "loo")

    def weights(folder: str, seed: int) -> torch.Tensor:
        run = controls.two_tower()
        run = replace(run, train=replace(run.train, seed=seed, epochs=1.0, tensorboard=False))
        train_run(run, store, split, tmp_path / folder)
        return load_run(tmp_path / folder).model.items.weight

    first, again, other = weights("a", 1), weights("b", 1), weights("c", 2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_catalogue_past_the_bound_is_sampled(store: Store, tmp_path: Path) -> None:
    run = controls.gru4rec()
    assert isinstance(run, SequenceRun)
    run = replace(
        run,
        objective=replace(run.objective, full_up_to_items=10, num_sampled=30),
        train=replace(run.train, epochs=3.0, tensorboard=False),
    )
    train_run(run, store, load_split(store, "loo"), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["sampled_softmax"] for line in lines if "sampled_softmax" in line]
    assert losses
    assert np.isfinite(losses).all()


def test_ranker_sees_no_statistic_of_the_clicks_it_learns_from(store: Store, tmp_path: Path) -> None:
    train_run(short(controls.din(), 0.2), store, load_split(store, "temporal-successive"), tmp_path)
    assert not Features.load(tmp_path).log_popularity.any()


def test_refit_learns_the_valid_events_for_all_its_epochs(store: Store, tmp_path: Path) -> None:
    split, run = load_split(store, "temporal-successive"), short(recipe_of("sasrec"), 3.0)
    assert isinstance(run, SequenceRun)
    once = train_run(run, store, split, tmp_path / "once")
    again = train_run(replace(run, refit=True), store, split, tmp_path / "again")
    assert once.best is not None
    assert again.best is None
    assert again.steps >= once.steps
    new = set(store.event_item[split.events("valid")].tolist())
    models = [load_run(tmp_path / name, device="cpu").model for name in ("once", "again")]
    seen = [(model.items.weight[sorted(new)] ** 2).sum(1) for model in models]
    assert not torch.allclose(*seen)
    with pytest.raises(ConfigError, match="windows train, rank, valid, test"):
        train_run(replace(run, refit=True), store, load_split(store, "funnel"), tmp_path / "fed")


def test_settings_are_shown_flat() -> None:
    assert flat({"a": [{"b": 1}, {"b": [2, 3]}], "c": "x"}) == {"a.0.b": 1, "a.1.b": [2, 3], "c": "x"}


def by_heart() -> Run:
    """A model that learns its window by heart; validation, which would stop it, is asked once."""
    run = controls.gru4rec()
    optim = replace(run.train.optim, lr=5e-3)
    train = replace(run.train, epochs=30.0, evaluate_every=30.0, tensorboard=False, device="cpu", optim=optim)
    return replace(run, model=replace(run.model, dropout=0.0), data=replace(run.data, batch_targets=400), train=train)


@pytest.fixture(scope="module")
def sources(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two retrieval runs: one that learned before the window `rank` of the funnel's split, and one that saw it."""
    out = tmp_path_factory.mktemp("sources")
    for split in ("funnel", "temporal-successive"):
        train_run(by_heart(), store, load_split(store, split), out / split)
    return out


def test_ranker_reads_similarities_of_a_finished_run_and_keeps_its_model(
    store: Store, sources: Path, tmp_path: Path
) -> None:
    split = load_split(store, "funnel")
    source = tmp_path / "source"
    shutil.copytree(sources / "funnel", source)
    run = short(replace(controls.din(), features_from=source), 0.5)
    train_run(run, store, split, tmp_path / "run")
    vectors = load_run(source, device="cpu").model.item_vectors()
    shutil.rmtree(source)  # the ranker's folder is whole without it
    features = load_features(tmp_path / "run")
    assert features.similarity is not None
    assert torch.equal(features.similarity.vectors, vectors)
    assert features.names[-len(SIMILARITY_FEATURES) :] == tuple(f"gru4rec:{name}" for name in SIMILARITY_FEATURES)
    loaded = load_run(tmp_path / "run", device="cpu")
    assert loaded.model.sizes.num_features == len(features.names)
    assert 0 < judge_run(loaded, tmp_path / "run").metrics()["AUC"] <= 1


@pytest.mark.parametrize(("split", "window"), [("funnel", "rank"), ("temporal-successive", "train")])
def test_ranker_learns_from_the_window_for_rankers_where_there_is_one(
    store: Store, tmp_path: Path, split: str, window: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = []

    def batches(store: Store, split: Split, window: str, *args: Any, **options: Any) -> ImpressionBatches:
        learned.append(window)
        return ImpressionBatches(store, split, window, *args, **options)

    monkeypatch.setattr(runs, "ImpressionBatches", batches)
    train_run(short(controls.din(), 0.2), store, load_split(store, split), tmp_path)
    assert learned == [window]
    counts = load_split(store, split).item_counts(store, "train")
    popularity = load_features(tmp_path).log_popularity.numpy()
    np.testing.assert_allclose(popularity, np.log1p(counts) if window == "rank" else 0, rtol=1e-6)


def test_source_that_saw_what_the_ranker_learns_from_is_refused(store: Store, sources: Path, tmp_path: Path) -> None:
    split = load_split(store, "funnel")
    events = len(split.events("rank"))
    run = short(replace(controls.din(), features_from=sources / "temporal-successive"))
    with pytest.raises(RunError, match=f"temporal-successive: .*it has seen {events} of the {events} events of window"):
        train_run(run, store, split, tmp_path / "a")
    run = short(replace(controls.din(), features_from=sources / "funnel"))
    with pytest.raises(ConfigError, match=r"'temporal-successive' has no window 'rank'.* Train both runs with --split"):
        train_run(run, store, load_split(store, "temporal-successive"), tmp_path / "b")


def test_source_without_vectors_or_without_an_end_is_refused(store: Store, tmp_path: Path) -> None:
    split = load_split(store, "funnel")
    train_run(controls.popularity(), store, split, tmp_path / "counts")
    guessing = t2diff_causal()
    guessing = replace(guessing, model=replace(guessing.model, width=8, samples=2, union=True))
    train_run(short(guessing, 0.1), store, split, tmp_path / "guesses")
    for source, kind in (("counts", "popularity"), ("guesses", "t2diff_union")):
        with pytest.raises(ConfigError, match=f"{source}: {kind} does not search with one vector"):
            train_run(short(replace(controls.din(), features_from=tmp_path / source)), store, split, tmp_path / kind)
    with pytest.raises(RunError, match="nothing: no finished run"):
        train_run(short(replace(controls.din(), features_from=tmp_path / "nothing")), store, split, tmp_path / "b")


def aucs(store: Store, source: Path) -> tuple[float, float]:
    """How much better the model's score tells clicks in the window the ranker learns from than in the test window, and
    the standard error of that: bootstrap over requests."""
    split = load_split(store, "funnel")
    model = load_run(source, device="cpu").model
    features = Features.fit(store, split, similarity=similarities([retriever("source", model)])["source"])
    rng = np.random.default_rng(0)
    value, variance = [], 0.0
    for window in ("rank", "test"):
        shown = [batch for batch, _ in ImpressionBatches(store, split, window, features).in_order()]
        score = np.concatenate([b.inputs.features[..., -1].numpy() for b in shown])
        label = np.concatenate([b.labels.numpy() for b in shown])
        value.append(auc(label.ravel(), score.ravel()))
        drawn = [rng.integers(0, len(label), len(label)) for _ in range(200)]
        variance += float(np.var([auc(label[d].ravel(), score[d].ravel()) for d in drawn]))
    return value[0] - value[1], variance**0.5


def test_a_feature_tells_as_much_where_the_ranker_learns_as_in_the_test_unless_it_leaks(
    store: Store, sources: Path
) -> None:
    """Who learned the ranker's window by heart would be trusted there, and disappoint in the test."""
    clean, noise = aucs(store, sources / "funnel")
    assert abs(clean) < 2 * noise
    leak, noise = aucs(store, sources / "temporal-successive")
    assert leak > 3 * noise

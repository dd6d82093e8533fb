"""KARMA's run: what its stages teach, what is made once, what is refused, what a kill costs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.encoders.backbone import load_backbone
from penchant.encoders.encode import encode_store
from penchant.errors import ConfigError, StoreError
from penchant.models import load_model
from penchant.papers.karma.model import KarmaConfig
from penchant.papers.karma.objective import KarmaObjectiveConfig
from penchant.recipes.karma import run as recipe
from penchant.recipes.karma import stages
from penchant.recipes.karma.build import read_texts
from penchant.recipes.karma.run import KarmaRun
from penchant.recipes.karma.stages import ContinuationConfig, WarmUpConfig
from penchant.recipes.karma.tables import (
    regimes,
    regimes_cold,
    regimes_cold_again,
    regimes_cold_tested,
    regimes_tested,
)
from penchant.recipes.runs import load_run, train_run
from penchant.training.loop import TrainConfig
from tests.checkerboard import requests_of
from tests.factories import make_store
from tests.tiny_models import encoded, save_image_model, save_language_model


@pytest.fixture(scope="module")
def language_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("language"))


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("karma")
    return encoded(make_store(folder / "store", searches=True), folder)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PENCHANT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


RUN = KarmaRun(
    model=KarmaConfig(layers=2, width=8),
    objective=KarmaObjectiveConfig(generate=0.1, reconstruct=0.1, max_words=5),
    continuation=ContinuationConfig(steps=4, rows=4, length=12),
    warm_up=WarmUpConfig(steps=6, items=16),
    train=TrainConfig(epochs=1, tensorboard=False, device="cpu", checkpoint_every_s=0.0),
)


def run_on(folder: Path, **changes: Any) -> KarmaRun:
    return replace(RUN, model=replace(RUN.model, backbone=str(folder), item_backbone=str(folder)), **changes)


class CutError(Exception):
    pass


@pytest.fixture
def threads() -> Iterator[None]:
    """Two of them, where sums could be taken in another order each time."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("stage", ["continuing the backbone", "warm-up, projector", "warm-up, full", "karma"])
def test_a_run_that_was_cut_in_any_stage_goes_on_to_the_same_weights(
    market: Store, language_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    split, run = load_split(market, "loo"), run_on(language_folder)
    train_run(run, market, split, tmp_path / "whole")
    monkeypatch.setenv("PENCHANT_CACHE", str(tmp_path / "another"))
    fit, log = stages.fit, list[str]()

    def cut(*args: Any, **options: Any) -> Any:
        log.append(options["title"])
        if options["title"] == stage:
            fit(*args, **options, should_stop=lambda step: step == 1)
            raise CutError
        return fit(*args, **options)

    for module in (recipe, stages):
        monkeypatch.setattr(module, "fit", cut)
    with pytest.raises(CutError):
        train_run(run, market, split, tmp_path / "cut")
    finished = log[:-1]
    for module in (recipe, stages):
        monkeypatch.setattr(module, "fit", lambda *a, **o: (log.append(o["title"]), fit(*a, **o))[1])
    log.clear()
    train_run(run, market, split, tmp_path / "cut")
    # The halves of the warm-up are one stage: the first is gone through again, from its last checkpoint.
    assert not {t for t in finished if t != "warm-up, projector"} & set(log)
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_what_a_killed_process_left_of_a_finished_stage_goes(cache: Path) -> None:
    def make(folder: Path) -> dict[str, torch.Tensor]:
        folder.mkdir(parents=True)
        return {"a": torch.ones(2)}

    made = stages.shared("stage", ["settings"], make)
    (folder,) = (cache / "karma").iterdir()
    assert [path.name for path in folder.iterdir()] == ["state.safetensors"]
    (folder / "work").mkdir()  # killed right before it was removed
    assert torch.equal(stages.shared("stage", ["settings"], make)["a"], made["a"])
    assert not (folder / "work").exists()


def test_stages_are_made_once_for_all_rows_and_seeds(
    market: Store, language_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, run = load_split(market, "loo"), run_on(language_folder)
    train_run(run, market, split, tmp_path / "a")
    fit, log = stages.fit, list[str]()
    monkeypatch.setattr(stages, "fit", lambda *a, **o: (log.append(o["title"]), fit(*a, **o))[1])
    action = replace(run, objective=replace(run.objective, generate=0.0, reconstruct=0.0))
    train_run(action, market, split, tmp_path / "b")
    train_run(replace(run, train=replace(run.train, seed=3)), market, split, tmp_path / "c")
    train_run(replace(run, model=replace(run.model, width=12, scaled=False)), market, split, tmp_path / "e")
    assert log == []
    train_run(replace(run, warm_up=replace(run.warm_up, lr=2e-3)), market, split, tmp_path / "d")
    assert log == ["warm-up, projector", "warm-up, full"]
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    assert {k: v.shape for k, v in a.items()} == {k: v.shape for k, v in b.items()}


def test_no_run_decides_what_the_others_begin_with(
    market: Store, language_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warm-up is the same whichever seed, width and objective come first."""
    split, run = load_split(market, "loo"), run_on(language_folder)
    other = replace(run, model=replace(run.model, width=4), objective=replace(run.objective, reconstruct=0.0))
    made = []
    for name, first in (("one", run), ("two", replace(other, train=replace(run.train, seed=5)))):
        monkeypatch.setenv("PENCHANT_CACHE", str(tmp_path / name))
        train_run(first, market, split, tmp_path / f"{name}-run")
        (state,) = (tmp_path / name / "karma").glob("warm-up-*/state.safetensors")
        made.append(state.read_bytes())
    assert made[0] == made[1]


def test_a_run_says_what_its_backbone_is_worth_and_continuing_it_helps(
    market: Store, language_folder: Path, tmp_path: Path
) -> None:
    run = run_on(language_folder, continuation=replace(RUN.continuation, steps=150, lr=1e-2))
    train_run(run, market, load_split(market, "loo"), tmp_path / "run")
    lines = recipe.said_by(tmp_path / "run")
    found = re.search(r"the whole .* layers ([\d,.]+), these continued ([\d,.]+)\.$", lines[0])
    assert found is not None
    cut, after = (float(number.replace(",", "")) for number in found.groups())
    assert after < 0.7 * cut
    assert len(lines) == 2
    assert "texts are longer than the 5 tokens" in lines[1]


def test_the_exported_run_answers_as_the_one_that_learned(market: Store, language_folder: Path, tmp_path: Path) -> None:
    train_run(run_on(language_folder), market, load_split(market, "loo"), tmp_path / "run")
    served = load_run(tmp_path / "run", device="cpu").model
    learner = load_model(tmp_path / "run" / recipe.LEARNER)
    assert not [*(tmp_path / "run").rglob("checkpoint*"), *(tmp_path / "run").rglob("best-*")]
    assert served.config.items == "table"
    assert learner.config.items == "vectors"
    requests = requests_of([1, 2, 3], [4], [])
    assert torch.equal(served.item_vectors(), learner.item_vectors())
    assert torch.equal(served.user_vectors(requests), learner.user_vectors(requests))


@pytest.mark.parametrize(
    "changes",
    [
        {"items": "text"},
        {"items": "text", "item_tune": "lora", "tune": "lora"},
        {"items": "text", "item_tune": "top", "item_layers": 3, "item_top": 1},
        {"tune": "frozen"},
    ],
)
def test_every_kind_of_item_encoder_and_of_tuning_is_trained_and_judged(
    market: Store, language_folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    run = run_on(language_folder)
    run = replace(run, model=replace(run.model, **changes))
    train_run(run, market, load_split(market, "loo"), tmp_path / "run")
    model = load_run(tmp_path / "run", device="cpu").model
    vectors = model.item_vectors()
    assert bool(torch.isfinite(vectors).all())
    kinds = len(set(market.table("items", ["title"])["title"].to_pylist())) // 10  # a number is no word here
    assert len(torch.unique(vectors[1:], dim=0)) > kinds


def test_pictures_are_modelled_and_items_without_one_are_counted(
    market: Store, language_folder: Path, tmp_path: Path
) -> None:
    store = make_store(tmp_path / "store")
    vectors = store.path / "vectors"
    vectors.mkdir()
    (vectors / "text").symlink_to((market.path / "vectors" / "text").resolve())
    encode_store(store, text=None, image=str(save_image_model(tmp_path / "vit")), device="cpu")
    run = run_on(language_folder, objective=replace(RUN.objective, picture=0.5))
    result = train_run(run, store, load_split(store, "loo"), tmp_path / "run")
    logged = (tmp_path / "run" / recipe.LEARNER / "metrics.jsonl").read_text()
    assert result.steps > 0
    assert '"picture"' in logged
    missing = int((~store.vectors("image").present[1:]).sum())
    assert f"{missing} of 80 items have no picture" in recipe.said_by(tmp_path / "run")[-1]
    names = load_file(tmp_path / "run" / "model.safetensors")
    assert not [name for name in names if "painter" in name]


@pytest.mark.parametrize("query", ["token", "interleaved"])
def test_a_model_of_queries_is_trained_and_answers_what_is_typed(
    market: Store, language_folder: Path, tmp_path: Path, query: Any
) -> None:
    run = run_on(language_folder, data=replace(RUN.data, queries=True))
    run = replace(run, model=replace(run.model, query=query))
    train_run(run, market, load_split(market, "loo"), tmp_path / "run")
    model = load_run(tmp_path / "run", device="cpu").model
    wool, silk = (replace(requests_of([1, 2]), queries=(text,)) for text in ("red wool", "blue silk"))
    assert not torch.allclose(model.user_vectors(wool), model.user_vectors(silk))
    nobody = replace(requests_of([]), queries=("red wool",))
    assert bool(model.user_vectors(nobody).any()), "a query alone is answered"


def test_warm_up_moves_what_its_part_says(market: Store, language_folder: Path, tmp_path: Path) -> None:
    split = load_split(market, "loo")
    starts = {}
    for part in ("none", "projector", "full"):
        run = run_on(language_folder, warm_up=WarmUpConfig(part=part, steps=4, items=16))
        tiny = replace(run, train=replace(run.train, epochs=1e-9, optim=replace(run.train.optim, lr=1e-12)))
        train_run(tiny, market, split, tmp_path / part)
        starts[part] = load_file(tmp_path / part / recipe.LEARNER / "model.safetensors")
    for part in ("projector", "full"):
        moved = {k for k, v in starts[part].items() if not torch.allclose(v, starts["none"][k], atol=1e-6)}
        assert {"items.skip.weight", "items.norm.weight"} <= moved
        assert any(k.startswith("body") for k in moved) == (part == "full")
        assert not {"to_user.weight", "to_item.weight", "items.trunk.content"} & moved


def test_a_frozen_backbone_stays_what_it_was(market: Store, language_folder: Path, tmp_path: Path) -> None:
    run = run_on(language_folder, continuation=ContinuationConfig(steps=0))
    run = replace(run, model=replace(run.model, tune="frozen"))
    train_run(run, market, load_split(market, "loo"), tmp_path / "run")
    body = load_backbone(str(language_folder), num_layers=2, device="cpu").model.model.state_dict()
    saved = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(saved[f"body.{k}"], v) for k, v in body.items() if "embed_tokens" not in k)


def test_what_a_run_cannot_do_is_refused_by_name(
    market: Store, language_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare, run = make_store(tmp_path / "bare"), run_on(language_folder)
    split = load_split(market, "loo")
    asked = replace(run, model=replace(run.model, query="token"), data=replace(run.data, queries=True))
    drawn = replace(run, objective=replace(run.objective, picture=0.1))
    with monkeypatch.context() as patch:
        patch.setattr("penchant.recipes.karma.run.begin", None)  # what is missing is known before any work
        with pytest.raises(StoreError, match=r"no content vectors named 'text'.*penchant encode"):
            train_run(run, bare, load_split(bare, "loo"), tmp_path / "run")
        patch.setitem(bare.manifest["counts"], "queries", 0)
        with pytest.raises(StoreError, match="nobody has typed a query to learn from"):
            train_run(asked, bare, load_split(bare, "loo"), tmp_path / "asked")
        with pytest.raises(StoreError, match=r"no content vectors named 'image'"):
            train_run(drawn, market, split, tmp_path / "drawn")
    for changes, message in (
        ({"max_len": 20}, r"data\.max_len is 50, model\.max_len 20"),
        ({"query": "token"}, r"data\.queries is False, model\.query 'token'"),
        ({"items": "table"}, "cannot learn"),
        ({"items": "pictures"}, "does not read pictures"),
    ):
        with pytest.raises(ConfigError, match=message):
            train_run(replace(run, model=replace(run.model, **changes)), market, split, tmp_path / message[:9])


def test_texts_are_cut_ended_and_counted(market: Store, language_folder: Path) -> None:
    tokenizer = load_backbone(str(language_folder), device="cpu").tokenizer
    texts = read_texts(market, tokenizer, 5)
    whole = read_texts(market, tokenizer, 40)
    lengths = (whole.words >= 0).sum(1)
    assert texts.cut == int((lengths > 5).sum()) > 0
    assert whole.cut == 0
    last = whole.words[torch.arange(1, len(lengths)), lengths[1:] - 1]
    assert bool((last == whole.vocabulary.end).all())
    assert whole.vocabulary.tokens[whole.vocabulary.end] == tokenizer.eos_token_id
    assert torch.equal(texts.words, whole.words[:, :5])
    assert not (texts.words[0] >= 0).any()
    title = market.table("items", ["title"])["title"][0].as_py()
    said = whole.vocabulary.tokens[whole.whole[0]]
    assert np.array_equal(said[: len(title.split())], tokenizer(title, add_special_tokens=False)["input_ids"])


def test_the_two_sides_of_a_regime_differ_in_what_is_decoded_alone() -> None:
    rows = {row.name: row for table in (regimes(), regimes_cold()) for row in table.rows}
    pairs = [name.removesuffix("-both") for name in rows if name.endswith("-both")]
    assert len(pairs) * 2 == len(rows)
    for name in pairs:
        action, both = rows[f"{name}-action"], rows[f"{name}-both"]
        assert isinstance(action.run, KarmaRun)
        assert isinstance(both.run, KarmaRun)
        assert (action.run.objective.generate, action.run.objective.reconstruct) == (0.0, 0.0)
        assert both.run.objective.generate == both.run.objective.reconstruct > 0
        untold = replace(both.run.objective, generate=0.0, reconstruct=0.0)
        assert (action.data, action.run) == (both.data, replace(both.run, objective=untold))


def test_what_the_regimes_chose_is_tested_by_seeds_that_chose_nothing() -> None:
    for chosen, tested in ((regimes(), regimes_tested()), (regimes_cold(), regimes_cold_tested())):
        assert tested.first_seed >= chosen.first_seed + chosen.seeds
        assert (chosen.window, tested.window) == ("valid", "test")
        assert set(tested.rows) <= set(chosen.rows)
        assert tested.cold == chosen.cold


def test_new_items_are_tested_again_elsewhere_with_another_items_texts_beside_them() -> None:
    before, again = regimes_cold_tested(), regimes_cold_again()
    assert again.first_seed >= before.first_seed + before.seeds
    assert (again.window, again.cold, again.targets) == (before.window, before.cold, before.targets)
    rows = {row.name: row for row in again.rows}
    assert [replace(row, data="bazaar-new-items") for row in again.rows[:2]] == list(before.rows)
    both, shuffled = rows["new-items-both"].run, rows["new-items-shuffled"].run
    assert isinstance(both, KarmaRun)
    assert shuffled == replace(both, objective=replace(both.objective, shuffled=True))
    assert {row.data for row in again.rows}.isdisjoint(row.data for row in before.rows)

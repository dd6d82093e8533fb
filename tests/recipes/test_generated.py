"""Runs of KARMA's Table 2: one KARMA and one head for all rows that train them alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.errors import ConfigError
from penchant.papers.karma.generators import GeneratorConfig
from penchant.recipes.controls import popularity
from penchant.recipes.funnel.plan import funnel_of
from penchant.recipes.karma.generated import GeneratedRun
from penchant.recipes.karma.run import karma_decoded
from penchant.recipes.karma.tables import table2
from penchant.recipes.runs import load_run, train_run
from penchant.training.loop import TrainConfig
from tests.checkerboard import requests_of
from tests.factories import make_store
from tests.recipes.test_karma import RUN
from tests.tiny_models import encoded, save_language_model


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("karma")
    return encoded(make_store(folder / "store"), folder)


def test_heads_share_a_karma_and_samples_share_a_head(
    market: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENCHANT_CACHE", str(tmp_path / "cache"))
    backbone = str(save_language_model(tmp_path / "language"))
    base = replace(RUN, model=replace(RUN.model, backbone=backbone, item_backbone=backbone))
    flow = GeneratedRun(
        base=base,
        head=GeneratorConfig(kind="flow", width=16, blocks=1, steps=3),
        train=TrainConfig(epochs=1, tensorboard=False, device="cpu"),
    )
    runs = {"flow": flow, "flow-4": replace(flow, samples=4), "mse": replace(flow, head=replace(flow.head, kind="mse"))}
    split = load_split(market, "loo")
    results = {name: train_run(run, market, split, tmp_path / name) for name, run in runs.items()}
    made = sorted(path.name.split("-")[0] for path in (tmp_path / "cache" / "karma").iterdir() if path.is_dir())
    assert made.count("run") == 1
    assert made.count("head") == 2
    assert results["flow"] == results["flow-4"]
    weights = {name: load_file(tmp_path / name / "model.safetensors") for name in runs}
    assert all(torch.equal(value, weights["flow-4"][name]) for name, value in weights["flow"].items())
    of_karma = [name for name in weights["flow"] if name.startswith("karma.")]
    assert all(torch.equal(weights["flow"][name], weights["mse"][name]) for name in of_karma)
    models = {name: load_run(tmp_path / name, device="cpu").model for name in runs}
    assert (models["flow"].config.samples, models["flow-4"].config.samples) == (1, 4)
    with torch.no_grad():
        one, four = (models[name].user_vectors(requests_of([3, 4])) for name in ("flow", "flow-4"))
        mine, another = (
            models["flow"].user_vectors(replace(requests_of([3, 4]), users=torch.tensor([u]))) for u in (1, 2)
        )
        again = models["flow"].user_vectors(replace(requests_of([3, 4]), users=torch.tensor([1])))
    assert not torch.equal(one, four)
    assert torch.equal(mine, again), "a user's noise is theirs"
    assert not torch.equal(mine, another)
    assert (tmp_path / "flow" / "metrics.jsonl").is_file()


def test_a_head_reads_what_its_karma_reads(market: Store, tmp_path: Path) -> None:
    run = GeneratedRun(base=replace(RUN, model=replace(RUN.model, max_len=9)))
    with pytest.raises(ConfigError, match=r"data\.max_len is 50, base\.model 9"):
        train_run(run, market, load_split(market, "loo"), tmp_path / "run")


def test_the_table_has_one_karma_and_the_papers_four_heads() -> None:
    rows = {row.name: row.run for row in table2().rows}
    heads = [run for run in rows.values() if isinstance(run, GeneratedRun)]
    assert {run.head.kind for run in heads} == {"mse", "ddpm", "edm", "flow"}
    assert [run.base for run in heads] == [rows["task-1-2"]] * len(heads)
    assert sorted({run.samples for run in heads}) == [1, 4, 16, 64]


def test_no_funnel_holds_an_experiment() -> None:
    run = karma_decoded()
    run = replace(run, model=replace(run.model, query="interleaved"))
    with pytest.raises(ConfigError, match="reads the query of every past action, which no server keeps"):
        funnel_of({"karma": run, "popularity": popularity()})
    with pytest.raises(ConfigError, match="karma_generated is an experiment's"):
        funnel_of({"generated": GeneratedRun(), "popularity": popularity()})

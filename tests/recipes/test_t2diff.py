"""T2Diff's run: what it writes, what it refuses, what a kill costs; and that its tables hold what they promise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from penchant.cli.main import main
from penchant.data.batch import SequenceDataConfig
from penchant.data.prefix_batch import PrefixDataConfig
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.errors import ConfigError
from penchant.evaluation.results import find_results
from penchant.models import Sizes, load_model
from penchant.papers.t2diff.causal import CausalT2DiffConfig
from penchant.papers.t2diff.diffusion import DiffusionConfig, noise_levels
from penchant.papers.t2diff.leak import MEASURES, read_report
from penchant.papers.t2diff.model import T2Diff, T2DiffConfig
from penchant.recipes.judge import judge_run
from penchant.recipes.named import RECIPES, recipe_of
from penchant.recipes.rows import Row
from penchant.recipes.runs import SequenceRun, load_run, train_run
from penchant.recipes.t2diff import causal, tables
from penchant.recipes.t2diff import run as recipe
from penchant.recipes.t2diff.causal import CausalT2DiffRun, components
from penchant.recipes.t2diff.run import T2DiffRun, t2diff_literal
from penchant.training.loop import TrainConfig, fit
from tests.data.test_split import store_of
from tests.factories import give_vectors, make_store
from tests.test_contracts import all_scores

SPLIT = "temporal-successive"
MODEL = T2DiffConfig(width=8, channels=4, steps=5, session_items=3, inner=8, max_len=10)
RUN = T2DiffRun(
    model=MODEL,
    data=PrefixDataConfig(max_len=10, batch_targets=128),
    leak_targets=50,
    train=TrainConfig(epochs=2, tensorboard=False, device="cpu", checkpoint_every_s=0.0),
)


def trained(run: T2DiffRun, store: Store, out: Path) -> Path:
    train_run(run, store, load_split(store, SPLIT), out)
    return out


@pytest.fixture(scope="module")
def folder(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(RUN, store, tmp_path_factory.mktemp("t2diff") / "run")


def test_a_run_leaves_a_model_and_the_leaks_report(folder: Path) -> None:
    assert load_model(folder).config == MODEL
    moments = read_report(folder)
    assert [moment.epochs for moment in moments] == [1.0, 2.0]
    assert (folder / "leak.svg").is_file()


def test_what_the_target_gave_away_is_in_no_number_of_the_run_or_of_its_verdict(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    logged = {name for line in lines for name in line}
    assert {"softmax", "kl", "valid/NDCG@10"} <= logged
    assert not any("leak" in name or "from the target" in name for name in logged)
    result = json.loads((folder / "result.json").read_text())
    assert "from the target" not in json.dumps(result)
    loaded = load_run(folder, device="cpu")
    verdict = judge_run(loaded, folder).metrics()
    assert {"Recall@2", "Recall@20", "MRR@2", "MRR@20"} <= set(verdict)


class CutError(Exception):
    pass


def test_a_run_that_was_killed_ends_at_the_very_same_weights(
    folder: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*args: Any, **named: Any) -> Any:
        def stop(step: int) -> bool:
            if step == 7:
                raise CutError
            return False

        return fit(*args, **named, should_stop=stop)

    monkeypatch.setattr(recipe, "fit", cut)
    with pytest.raises(CutError):
        trained(RUN, store, tmp_path / "run")
    monkeypatch.setattr(recipe, "fit", fit)
    trained(RUN, store, tmp_path / "run")
    whole, cut_run = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "run"))
    assert all(torch.equal(whole[name], cut_run[name]) for name in whole)
    assert read_report(folder) == read_report(tmp_path / "run")


def test_the_literal_form_and_the_control_train_too(store: Store, tmp_path: Path) -> None:
    literal = t2diff_literal()
    changes = {name: getattr(literal.model, name) for name in ("xhat", "step_embedding", "reverse_noise", "attention")}
    run = replace(RUN, model=replace(MODEL, **changes, latent_scale=False), objective=literal.objective)
    out = trained(replace(run, train=replace(run.train, epochs=1)), store, tmp_path / "literal")
    assert torch.isfinite(load_model(out).item_vectors()).all()
    alone = replace(RUN, model=replace(MODEL, xhat="zero"), train=replace(RUN.train, epochs=1))
    assert read_report(trained(alone, store, tmp_path / "alone")) == []


def test_it_learns_the_order_that_the_made_up_market_has(folder: Path, store: Store, tmp_path: Path) -> None:
    longer = replace(RUN, train=replace(RUN.train, epochs=8), leak_targets=0)
    model = load_model(trained(longer, store, tmp_path / "run"))
    fresh = T2Diff(MODEL, Sizes(num_items=store.num_items)).eval()
    loaded = load_run(folder, device="cpu")
    learned, random = (judge_run(replace(loaded, model=m), folder).metrics()["Recall@20"] for m in (model, fresh))
    assert learned > random + 0.1


def test_the_report_is_told_and_drawn(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["report", "leak", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "from the target" in said
    assert all(measure in said for measure in MEASURES)
    for name in ("leak.svg", "reverse.svg", "figure4.svg", "figure5.svg"):
        assert (folder / name).read_text().lstrip().startswith("<?xml")
    assert main(["report", "leak", str(tmp_path)]) == 2
    assert "has no leak.json" in capsys.readouterr().err


def test_lengths_and_times_that_do_not_fit_are_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.max_len 7"):
        trained(replace(RUN, model=replace(MODEL, max_len=7)), store, tmp_path / "a")
    undated = store_of([[(1 + at % 5, at) for at in range(9)] for _ in range(6)], tmp_path / "s", has_time=False)
    for out, model in (("b", MODEL), ("c", replace(MODEL, time_lag=False, session="gap"))):
        with pytest.raises(ConfigError, match="no times"):
            train_run(replace(RUN, model=model), undated, load_split(undated, "loo"), tmp_path / out)
    plain = replace(RUN, model=replace(MODEL, time_lag=False), train=replace(RUN.train, epochs=1))
    train_run(plain, undated, load_split(undated, "loo"), tmp_path / "d")
    with pytest.raises(ConfigError, match="leak_targets is -1"):
        T2DiffRun(leak_targets=-1)


def test_recipes_have_their_names() -> None:
    names = {r.__name__ for r in RECIPES}
    assert {"t2diff", "t2diff_algorithm_1", "t2diff_literal", "mixed_attention"} <= names
    default, algorithm, literal = (recipe_of(n) for n in ("t2diff", "t2diff_algorithm_1", "t2diff_literal"))
    assert isinstance(default, T2DiffRun)
    assert isinstance(algorithm, T2DiffRun)
    assert isinstance(literal, T2DiffRun)
    assert (default.model.xhat, default.objective.train_xhat) == ("onestep", "served")
    assert (algorithm.model.xhat, algorithm.objective.train_xhat) == ("chain", "onestep_r")
    assert (literal.model.attention, literal.model.reverse_noise) == ("literal_ratio", "literal")


def _size(model: T2DiffConfig) -> int:
    return sum(p.numel() for p in T2Diff(model, Sizes(num_items=100)).parameters())


def test_the_matched_control_has_as_many_parameters_within_a_tenth() -> None:
    rows = tables.forms()
    added = _size(rows["t2diff"].model) - _size(rows["mixed-attention"].model)
    matched = _size(rows["mixed-parameters"].model) - _size(rows["mixed-attention"].model)
    assert matched == pytest.approx(added, rel=0.1)


def test_the_control_of_equal_time_is_the_same_model_for_longer() -> None:
    alone, longer = (tables.forms()[name] for name in ("mixed-attention", "mixed-compute"))
    assert longer.model == alone.model
    assert longer.train.epochs == tables.COMPUTE * alone.train.epochs
    spent: dict[str, list[float]] = {"t2diff": [], "mixed-compute": []}
    for result in find_results(Path(__file__).parents[2] / "results", "t2diff", "table2"):
        if result.row in spent:
            spent[result.row].append(result.cpu_seconds)
    assert all(spent.values())
    assert sum(spent["mixed-compute"]) == pytest.approx(sum(spent["t2diff"]), rel=0.1)


def test_every_number_of_steps_has_the_same_noise_at_its_end() -> None:
    left = [
        float((1 - noise_levels(DiffusionConfig(steps=steps, last_beta=last))).prod())
        for steps, last in tables.LAST_BETA.items()
    ]
    assert left == pytest.approx([left[1]] * 3, rel=0.01)


def test_every_row_of_the_tables_is_a_complete_run_of_its_own() -> None:
    made = {table.name: table for table in tables.tables()}
    of_table2 = {f"table2{part}" for part in ("", "-loo", "-beauty", "-published", "-d8")}
    assert set(made) == of_table2 | {"long", "table3", "table4", "forms", "past", "past-chosen"}
    for table in made.values():
        keys = [(row.name, row.data, row.split) for row in table.rows]
        assert len(set(keys)) == len(keys)
        assert table.targets == {"table2-beauty": None, "past-chosen": tables.TESTED}.get(table.name, tables.TARGETS)
        assert table.window == ("valid" if table.name == "past" else "test")
    assert {name for name, table in made.items() if table.seeds == 3} == {"table2", "table2-beauty", "past-chosen"}
    tested = made["past-chosen"]
    assert tested.first_seed >= made["past"].first_seed + made["past"].seeds  # seeds that chose nothing
    assert {row.rates for row in tested.rows if isinstance(row, Row)} == {tables.RATES}
    by_name = {row.name: row.run for row in made["past"].rows}
    assert by_name["samples-8-longer"] == next(row.run for row in tested.rows if row.name == "t2diff")
    rows = {row.name for row in made["table2"].rows}
    assert {"t2diff-literal", "t2diff-algorithm-1", "t2diff", "wo-dp", "mixed-attention", "sasrec", "gru4rec"} <= rows
    small = [row.run for row in made["table2-d8"].rows]
    assert {getattr(getattr(run, "model", None), "width", 0) for run in small} == {8}
    assert {run.train.optim.lr for run in small if isinstance(run, T2DiffRun | SequenceRun)} == {5e-3}
    assert {getattr(getattr(row.run, "objective", None), "loss", "") for row in made["table2-published"].rows} == {
        "published"
    }
    trained_rows = [row for table in made.values() for row in table.rows if isinstance(row.run, T2DiffRun)]
    lengths = {(row.run.data.max_len, row.run.model.max_len) for row in trained_rows if isinstance(row.run, T2DiffRun)}
    assert lengths == {(50, 50)}


def test_a_trained_model_scores_the_whole_catalogue(folder: Path, store: Store) -> None:
    from tests.checkerboard import requests_of

    assert all_scores(load_model(folder), requests_of([1, 2], [])).shape == (2, store.num_items)


@pytest.mark.parametrize(
    ("name", "changes"),
    [("t2diff_causal", {}), ("t2diff_content", {}), ("t2diff_causal", {"union": True, "samples": 2})],
)
def test_the_causal_variant_trains_and_is_loaded_as_it_was(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    give_vectors(store)
    run = recipe_of(name)
    assert isinstance(run, CausalT2DiffRun)
    small = replace(run.model, width=8, max_len=10, steps=5, **changes)
    train = TrainConfig(epochs=1, tensorboard=False, device="cpu")
    run = replace(
        run,
        model=small,
        data=replace(run.data, max_len=10),
        content=("text", "image"),
        content_dims=4,
        train=train,
    )
    train_run(run, store, load_split(store, SPLIT), tmp_path / "run")
    loaded = load_run(tmp_path / "run", device="cpu")
    assert loaded.model.config.content_width == (8 if name == "t2diff_content" else 0)
    assert loaded.model.kind == ("t2diff_union" if changes else "t2diff_causal")
    assert 0 < judge_run(loaded, tmp_path / "run").metrics()["HR@10"] <= 1
    with pytest.raises(ConfigError, match=r"model\.max_len 10"):
        train_run(replace(run, data=replace(run.data, max_len=9)), store, load_split(store, SPLIT), tmp_path / "other")


def test_a_causal_run_that_was_cut_goes_on_to_the_same_weights(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its noise is drawn at random, and the latents' size and slow copy are followed from step to step."""
    run = CausalT2DiffRun(
        model=CausalT2DiffConfig(width=8, max_len=10, steps=5, latent="slow", guidance=0.5),
        data=SequenceDataConfig(max_len=10, batch_targets=100),
        train=TrainConfig(epochs=1, tensorboard=False, device="cpu", checkpoint_every_s=0.0),
    )
    split = load_split(store, SPLIT)
    train_run(run, store, split, tmp_path / "whole")

    def cut(*args: Any, **named: Any) -> Any:
        fit(*args, **named, should_stop=lambda step: step == 3)
        raise CutError

    monkeypatch.setattr(causal, "fit", cut)
    with pytest.raises(CutError):
        train_run(run, store, split, tmp_path / "cut")
    monkeypatch.setattr(causal, "fit", fit)
    train_run(run, store, split, tmp_path / "cut")
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_components_are_the_largest_and_of_size_one(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    give_vectors(store)
    kept, present = components(store, "text", 3), store.vectors("text").present
    assert kept.shape == (store.num_items + 1, 3)
    assert not kept[~present].any()
    assert np.square(kept[present]).mean() == pytest.approx(1.0, rel=1e-5)
    given = store.vectors("text").standardised()[present].astype(np.float64)
    values = np.linalg.svd(given, compute_uv=False)
    got = np.linalg.norm(kept[present].astype(np.float64), axis=0)
    np.testing.assert_allclose(got / got[0], values[:3] / values[0], rtol=1e-4)
    assert (np.abs(np.corrcoef(kept[present].T) - np.eye(3)) < 0.05).all()

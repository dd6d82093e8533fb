"""The leak's report: what each guess is worth, by epoch; and that no table of results can show it."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from penchant.data.history import Requests, requests_before_events
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.evaluation.protocol import evaluate_retrieval
from penchant.evaluation.results import find_results
from penchant.models import sizes_of
from penchant.papers.t2diff import leak as module
from penchant.papers.t2diff.leak import (
    BINS,
    FROM_TARGET,
    GUESSES,
    MEASURES,
    Leak,
    add_to_report,
    measure_leak,
    read_report,
)
from penchant.papers.t2diff.model import T2Diff, T2DiffConfig
from tests.papers.t2diff.test_t2diff import SMALL
from tests.rules import reached

SPLIT = "temporal-successive"


@pytest.fixture(scope="module")
def model(store: Store) -> T2Diff:
    torch.manual_seed(0)
    return T2Diff(T2DiffConfig(**SMALL, max_len=10), sizes_of(store)).eval()


@pytest.fixture(scope="module")
def leak(model: T2Diff, store: Store) -> Leak:
    return measure_leak(model, store, load_split(store, SPLIT), 1.5, targets=10_000)


def test_every_guess_has_every_measure(leak: Leak) -> None:
    assert set(leak.guesses) == set(GUESSES)
    for values in leak.guesses.values():
        assert set(values) == set(MEASURES)
        assert 0 <= values["MRR@20"] <= values["Recall@20"] <= 1
    assert leak.guesses["zero"]["cosine"] == 0
    assert set(leak.drift) == {"all", "last"}
    assert len(leak.reverse) == SMALL["steps"]
    steps = (1, SMALL["steps"] // 2, SMALL["steps"])
    assert list(leak.histogram) == [f"after step {step}" for step in steps]
    middles = (np.arange(BINS) + 0.5) * 2 / BINS - 1
    for step, counts in zip(steps, leak.histogram.values(), strict=True):
        assert sum(counts) == sum(leak.histogram["after step 1"]) > 0
        assert middles @ counts / sum(counts) == pytest.approx(leak.reverse[step - 1][0], abs=1 / BINS)
    assert leak.epochs == 1.5


@pytest.mark.parametrize(("xhat", "guess"), [("onestep", "one step"), ("chain", "chain"), ("zero", "zero")])
def test_the_guess_that_is_served_scores_as_the_protocol_says(
    leak: Leak, model: T2Diff, store: Store, xhat: Any, guess: str
) -> None:
    """The same weights in the same mode by both ways: the report's numbers are of the thing that tables measure."""
    served = T2Diff(replace(model.config, xhat=xhat), model.sizes).eval()
    served.load_state_dict(model.state_dict(), strict=xhat != "zero")
    judged = evaluate_retrieval(served, store, load_split(store, SPLIT), "valid", ks=(20,), max_len=10).metrics()
    assert leak.guesses[guess]["Recall@20"] == pytest.approx(judged["Recall@20"], abs=1e-6)
    assert leak.guesses[guess]["MRR@20"] == pytest.approx(judged["MRR@20"], abs=1e-4)


def test_a_perfect_denoiser_shows_in_the_report_and_not_in_what_is_served(
    model: T2Diff, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As trained, x^ is the target; a tower that copies it finds everything. The protocol must not."""
    truths: list[torch.Tensor] = []
    diffusion = model.diffusion
    assert diffusion is not None
    plain = type(diffusion).estimate

    def noised(diffusion: Any, z_0: torch.Tensor, r: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        truths[:] = [z_0]
        return z_0

    def estimate(z: torch.Tensor, r: torch.Tensor, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        return z if truths and z is truths[0] else plain(diffusion, z, r, x, real)

    monkeypatch.setattr(module, "noised", noised)
    monkeypatch.setattr(diffusion, "estimate", estimate)
    monkeypatch.setattr(model, "tower", lambda past, xhat: 50 * xhat)
    split = load_split(store, SPLIT)
    told = measure_leak(model, store, split, 0.0, targets=300).guesses
    assert told[FROM_TARGET]["Recall@20"] == 1
    assert told[FROM_TARGET]["cosine"] == pytest.approx(1, abs=1e-4)
    assert told["one step"]["Recall@20"] < 0.6
    served = evaluate_retrieval(model, store, split, "valid", ks=(20,), max_len=10, targets=300).metrics()
    assert served["Recall@20"] == pytest.approx(told["one step"]["Recall@20"], abs=1e-6)


def test_what_is_served_is_the_same_whatever_the_target_is(
    model: T2Diff, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = load_split(store, SPLIT).targets("valid")
    last = events[np.append(np.diff(store.event_user[events]) > 0, True)]  # one of each user, in no other's history
    before = model.user_vectors(requests_before_events(store, last, 10))
    assert before.any(1).all()
    other = np.array(store.event_item)
    other[last] = other[last] % store.num_items + 1
    monkeypatch.setattr(store, "event_item", other)
    assert torch.equal(model.user_vectors(requests_before_events(store, last, 10)), before)
    assert list(inspect.signature(model.user_vectors).parameters) == ["requests"]
    assert not {"target", "targets"} & set(inspect.signature(Requests).parameters)


def test_no_module_that_makes_tables_or_serves_reads_the_report() -> None:
    src = Path(module.__file__).parents[3]
    name = module.__name__
    came_from = reached(src)
    for room in ("evaluation", "funnel", "serve", "index", "training"):
        users = [m for m in came_from if m.startswith(f"penchant.{room}.") and name in came_from[m]]
        assert users == []
    for maker in ("judge", "reproduce"):
        source = (src / "penchant" / "recipes" / f"{maker}.py").read_text()
        assert "leak" not in source


def test_what_the_target_gives_away_is_in_no_table_but_the_leaks() -> None:
    told = set()
    for result in find_results(Path(module.__file__).parents[4] / "results"):
        if any(FROM_TARGET in metric for metric in result.metrics):
            told.add((result.paper, result.table, result.window))
    assert told == {("benchmarks", "leak", "valid")}


def test_a_report_grows_by_epoch_and_a_run_that_goes_on_writes_its_moments_anew(leak: Leak, tmp_path: Path) -> None:
    for epochs in (0.5, 1.0, 1.5):
        add_to_report(replace(leak, epochs=epochs), tmp_path)
    add_to_report(replace(leak, epochs=1.0), tmp_path)
    again = read_report(tmp_path)
    assert [moment.epochs for moment in again] == [0.5, 1.0]
    assert again[1] == replace(leak, epochs=1.0)
    picture = (tmp_path / "leak.svg").read_text()
    assert picture.lstrip().startswith("<?xml")
    assert json.loads((tmp_path / "leak.json").read_text())["moments"]
    assert read_report(tmp_path / "nowhere") == []


def test_a_model_without_diffusion_has_no_leak(store: Store) -> None:
    plain = T2Diff(T2DiffConfig(**SMALL, max_len=10, xhat="zero"), sizes_of(store))
    with pytest.raises(ValueError, match="no diffusion module"):
        measure_leak(plain, store, load_split(store, SPLIT), 0.0, targets=10)


def test_the_same_weights_are_measured_alike(model: T2Diff, store: Store) -> None:
    split = load_split(store, SPLIT)
    one, other = (measure_leak(model, store, split, 0.0, targets=40) for _ in range(2))
    assert one == other
    assert np.isfinite([value for values in one.guesses.values() for value in values.values()]).all()

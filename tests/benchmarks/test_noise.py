"""The bench of T2Diff's serving noise, small."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import noise
from penchant.data.split import load_split
from penchant.errors import RunError
from penchant.evaluation.protocol import evaluate_retrieval
from penchant.evaluation.results import find_results
from penchant.recipes.runs import load_run, train_run
from tests.factories import make_store
from tests.recipes.test_t2diff import RUN


def test_each_way_is_judged_by_several_seeds_and_leaves_the_run_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "store")
    folder = tmp_path / "t2diff.made-up.temporal-successive.s0"
    train_run(RUN, store, load_split(store, "temporal-successive"), folder)
    results = tmp_path / "results"
    monkeypatch.setattr(sys, "argv", ["noise", str(folder), "--seeds", "3", "--results", str(results)])
    noise.main()
    rows = {row.row: row.metrics for row in find_results(results, table="noise")}
    assert set(rows) == {f"t2diff-{way}" for way in noise.WAYS}
    loaded = load_run(folder, device="cpu")
    trained = loaded.model.config
    again = noise.judged(loaded, "one-step", 3, 5000)
    assert again == rows["t2diff-one-step"]  # noise hangs on the user and the seed alone
    assert again["HR@20, deviation"] > 0
    assert loaded.model.config == trained
    assert trained.xhat == "onestep"
    hit = {}
    for seed in (0, 1):
        loaded.model.config = replace(trained, noise_seed=seed)
        found = evaluate_retrieval(loaded.model, store, loaded.split, ks=(10, 20), max_len=trained.max_len)
        hit[seed] = found.metrics()["HR@20"]
    one = noise.judged(loaded, "one-step", 2, 5000)
    assert one["HR@20"] == pytest.approx((hit[0] + hit[1]) / 2)
    assert one["HR@20, deviation"] == pytest.approx(abs(hit[0] - hit[1]) / 2**0.5)


def test_what_has_no_noise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path / "store")
    folder = tmp_path / "alone"
    without = replace(RUN, model=replace(RUN.model, xhat="zero"), leak_targets=0)
    train_run(without, store, load_split(store, "temporal-successive"), folder)
    monkeypatch.setattr(sys, "argv", ["noise", str(folder)])
    with pytest.raises(RunError, match="no run with a diffusion module"):
        noise.main()

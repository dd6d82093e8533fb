"""The bench of what IDDU tells, on small runs over a made-up Store."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import decoding as bench
from penchant.data.split import load_split
from penchant.evaluation.results import find_results
from penchant.papers.dmae.objective import DMAEObjectiveConfig, decoding_distance
from penchant.recipes.dmae.run import dmae
from penchant.recipes.runs import train_run
from tests.factories import give_vectors, make_store
from tests.papers.dmae.test_objective import random_pair


def test_what_is_told_stands_beside_a_decoder_that_looks_at_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tmp_path / "stores" / "made-up")
    give_vectors(store)
    split = load_split(store, "temporal-successive")
    run = dmae()
    train = replace(run.train, epochs=0.5, evaluate_every=0.5, tensorboard=False, device="cpu")
    folders = []
    for name, told in {"told": DMAEObjectiveConfig(), "cells": DMAEObjectiveConfig(q="cells")}.items():
        folders.append(tmp_path / f"{name}.made-up.s0")
        train_run(replace(run, objective=told, train=train), store, split, folders[-1])
    arguments = ["--stores", str(tmp_path / "stores"), "--results", str(tmp_path / "results")]
    monkeypatch.setattr(sys, "argv", ["decoding", *map(str, folders), *arguments])
    bench.main()
    assert "cells: q is cells" in capsys.readouterr().out
    (result,) = find_results(tmp_path / "results")
    assert result.row == "told"
    metrics = {name: float(value or 0.0) for name, value in result.metrics.items()}
    for name in ("text", "image"):
        told, nothing = metrics[f"{name}: nats"], metrics[f"{name}: nats of the mean"]
        assert told > 0
        assert nothing > 0
        assert metrics[f"{name}: share told"] == pytest.approx(1 - told / nothing)
    bench.main()
    assert "told: finished before" in capsys.readouterr().out


def test_a_decoder_that_looks_at_nothing_reaches_the_constant_distance() -> None:
    _, p = random_pair()
    config = DMAEObjectiveConfig(slices=3, bins=4)
    mean = p.mean(0).clamp(min=1e-12).log().expand_as(p)
    assert float(bench.constant_distance(p)) == pytest.approx(
        float(decoding_distance(mean, p, config).mean()), abs=1e-5
    )

"""The numbers of an embedding model's three places, on a small funnel whose SASRec stands for KARMA."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.places import measure_places, places_table
from rich.console import Console

from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.errors import ConfigError, RunError
from penchant.evaluation.funnel.report import FunnelReport
from penchant.evaluation.protocol import evaluate_retrieval
from penchant.recipes import controls
from penchant.recipes.funnel.plan import funnel_of, shortened
from penchant.recipes.funnel.run import run_funnel
from penchant.recipes.runs import load_run, train_run
from tests.factories import make_store


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("places") / "store", num_users=100)


@pytest.fixture(scope="module")
def funnel(market: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("places-funnel") / "run"
    channels = {"sasrec": controls.sasrec(), "popularity": controls.popularity()}
    run = shortened(funnel_of(channels, k=30), 2.0)
    settings = replace(run.settings, merged_size=40, preranked_size=15, list_size=10)
    run = replace(run, settings=settings, fuse="sasrec", features_from="sasrec")
    run_funnel(run, market, load_split(market, "funnel"), out)
    return out


@pytest.fixture(scope="module")
def rankers(market: Store, funnel: Path) -> tuple[Path, Path]:
    """Two rankers on impressions, without and with SASRec's similarities."""
    folder, split = funnel.with_name("rankers"), load_split(market, "funnel")
    run = controls.din()
    run = replace(run, train=replace(run.train, epochs=1.0, tensorboard=False, device="cpu"))
    train_run(run, market, split, folder / "plain")
    train_run(replace(run, features_from=funnel / "channels" / "sasrec"), market, split, folder / "similar")
    return folder / "plain", folder / "similar"


def test_the_three_numbers_are_those_of_the_parts(market: Store, funnel: Path, rankers: tuple[Path, Path]) -> None:
    places = measure_places(funnel, *rankers, share=0.1)
    assert (places.channel, places.num_items, places.recall_k) == ("sasrec", 80, 8)
    source = load_run(funnel / "channels" / "sasrec", device="cpu")
    judged = evaluate_retrieval(source.model, market, source.split, ks=(8,))
    assert places.recall_hr == pytest.approx(judged.metrics()["HR@8"])
    report = FunnelReport.from_json((funnel / "report.json").read_text())
    assert report.fusion is not None
    assert (places.alone, places.fused_gain) == (report.fusion.alone, report.fusion.gain)
    assert (places.merged, places.fused) == (report.truncation.plain, report.truncation.prerank)
    assert places.fused_gain.value == pytest.approx(places.fused.value - places.alone.value)
    assert 0 < places.auc_plain < 1
    assert 0 < places.auc_similar < 1
    assert places.auc_plain != places.auc_similar
    assert json.loads((funnel / "places.json").read_text())["recall_share"] == 0.1
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(places_table(places))
    said = console.export_text().replace("\u00a0", " ")
    assert "HR@8 (10.0 % of 80 items)" in said
    assert f"{places.auc_similar:.4f}" in said


def test_numbers_of_what_does_not_belong_together_are_refused(
    market: Store, funnel: Path, rankers: tuple[Path, Path], tmp_path: Path
) -> None:
    plain, similar = rankers
    with pytest.raises(ConfigError, match=r"share is 1\.5"):
        measure_places(funnel, plain, similar, share=1.5)
    with pytest.raises(RunError, match="no judged funnel here"):
        measure_places(tmp_path, plain, similar)
    with pytest.raises(RunError, match=r"plain: differs from .*similar in features_from"):
        measure_places(funnel, similar, plain)
    with pytest.raises(RunError, match="sasrec: no ranking run on the funnel's split"):
        measure_places(funnel, plain, funnel / "channels" / "sasrec")
    other = controls.mean_pooling()
    other = replace(other, features_from=funnel / "channels" / "sasrec")
    other = replace(other, train=replace(other.train, epochs=0.2, tensorboard=False, device="cpu"))
    train_run(other, market, load_split(market, "funnel"), tmp_path / "other")
    with pytest.raises(RunError, match=r"other: differs from .*plain in features_from, kind, train\.epochs"):
        measure_places(funnel, plain, tmp_path / "other")

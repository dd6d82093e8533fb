"""The table of funnels: each row is what it says, channels are trained once, results can be compared in pairs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penchant.encoders.encode import encode_store
from penchant.evaluation.results import find_results, read_per_user
from penchant.recipes.controls import popularity, sasrec
from penchant.recipes.funnel.plan import FunnelRun, funnel_of, shortened
from penchant.recipes.funnel.tables import DATA, RATES, TUNED, alone_of, rows
from penchant.recipes.karma.run import KarmaRun
from penchant.recipes.karma.stages import ContinuationConfig, WarmUpConfig
from penchant.recipes.reproduce import Missing, missing, run_row
from penchant.recipes.rows import TRIED, FunnelRow, ResultTable
from penchant.recipes.tables import tables
from penchant.recipes.ulim.run import ulim
from tests.factories import make_store
from tests.tiny_models import save_image_model, save_language_model, save_text_model


def test_histories_are_as_long_as_the_channel_that_reads_most() -> None:
    both = {"ulim": ulim(), "popularity": popularity()}
    assert funnel_of(both).settings.max_history == ulim().model.max_len == 2000
    assert funnel_of({"sasrec": sasrec(), "popularity": popularity()}).settings.max_history == 200


def test_each_part_is_taken_away_and_nothing_else() -> None:
    by_name = {(row.data, row.name): row.run for row in rows()}
    assert len(by_name) == len(rows())
    for data in DATA:
        whole = by_name[data, "four"]
        assert [c.name for c in whole.channels] == ["karma", "ulim", "t2diff", "popularity"]
        assert (whole.fuse, whole.features_from, whole.rank_kind) == ("karma", "karma", "dmae")
        assert by_name[data, "wo-fusion"] == replace(whole, fuse=None)
        assert by_name[data, "wo-feature"] == replace(whole, features_from=None)
        assert by_name[data, "wo-dmae"] == replace(whole, rank_kind="din")
        session = by_name[data, "four-session"]
        assert replace(session, session_minutes=0.0, rank=whole.rank, rank_train=whole.rank_train) == whole
        assert session.session_minutes == 30
        for name in ("karma", "ulim", "t2diff"):
            without = by_name[data, f"wo-{name}"]
            kept = [c for c in whole.channels if c.name != name]
            assert list(without.channels) == kept
            assert [c.name for c in without.settings.channels] == [c.name for c in kept]
            assert (without.fuse, without.features_from) == ((None, None) if name == "karma" else ("karma", "karma"))
            (alone,) = by_name[data, f"{name}-alone"].channels
            assert alone in whole.channels
            assert (data, f"{name}-alone-later") in by_name or name not in TUNED
        beside = by_name[data, "four-sasrec-knn"]
        assert beside.channels[2:] == whole.channels
    assert {run.settings.max_history for run in by_name.values()} == {2000}
    assert tables()["funnel-four"].rows == rows()


def test_rows_share_their_channels_and_write_results(tmp_path: Path) -> None:
    store = make_store(tmp_path / "stores" / "made-up", num_users=150, num_items=120, seed=2)
    run = shortened(funnel_of({"sasrec": sasrec(), "popularity": popularity()}), 1.0)
    settings = replace(run.settings, merged_size=60, preranked_size=20)
    run = replace(run, settings=settings, rank_kind="din", fuse="sasrec")
    made = tuple(
        FunnelRow(name=name, run=of, data="made-up", minutes=1.0, alone=len(of.channels) == 1)
        for name, of in (
            ("fused", run),
            ("plain", replace(run, fuse=None, session_minutes=30.0)),
            ("sasrec-alone", shortened(alone_of("sasrec", sasrec()), 1.0)),
        )
    )
    made += (replace(made[-1], name="sasrec-alone-later", later=True),)
    table = ResultTable(paper="funnel", name="four", rows=made, seeds=1)
    results = tmp_path / "results"
    for item in missing([table], results, (), (), None):
        run_row(item, tmp_path / "stores", tmp_path / "runs", results)
    assert list(missing([table], results, (), (), None)) == []
    shared = [p for p in (tmp_path / "runs/funnel/four/channels").iterdir() if p.is_dir() and ".try" not in p.name]
    # SASRec twice: from less and from more of the log.
    assert sorted(p.name.rsplit("-", 1)[0] for p in shared) == ["popularity", "sasrec", "sasrec"]
    found = {result.row: result for result in find_results(results)}
    assert set(found) == {"fused", "plain", "sasrec-alone", "sasrec-alone-later"}
    later, alone = found.pop("sasrec-alone-later"), found.pop("sasrec-alone")
    judged = [read_per_user(results, result) for result in (alone, later)]
    assert judged[0] is not None
    assert judged[1] is not None
    assert judged[0]["user"] == judged[1]["user"], "the same clicks are judged"
    rates = {channel["run"]["train"]["optim"]["lr"] for channel in alone.config["channels"]}
    assert alone.trials >= len(RATES)
    assert any(note.startswith(f"sasrec: {TRIED}") and f"{rate:g}: " in note for note in alone.notes for rate in rates)
    (trained,) = (
        p / "result.json"
        for p in shared
        if (p / "run.json").is_file() and json.loads((p / "run.json").read_text())["split"]["name"] == "funnel"
        if p.name.startswith("sasrec")
    )
    assert alone.cpu_seconds > json.loads(trained.read_text())["cpu_seconds"], "another row trained it"
    report = json.loads((tmp_path / "runs/funnel/four/plain.made-up.funnel.s0/report.json").read_text())
    (same,) = (c["hr"]["value"] for c in report["controls"] if (c["name"], c["kind"]) == ("sasrec", "channel"))
    assert alone.metrics["HR@10"] == pytest.approx(same), "the channel by itself, as the funnel's own report has it"
    assert alone.metrics["HR@10, valid"] != alone.metrics["HR@10"]
    assert read_per_user(results, alone) is not None
    for result in found.values():
        users = read_per_user(results, result)
        assert users is not None
        weights = users["weight"].to_numpy()
        for name in ("HR@10", "NDCG@10", "Retrieved"):
            mean = float(np.average(users[name].to_numpy(), weights=weights))
            assert mean == pytest.approx(result.metrics[name], abs=1e-5)
        metrics = {name: value for name, value in result.metrics.items() if value is not None}
        assert metrics["Retrieved"] >= metrics["Merged"] >= metrics["Pre-ranked"] >= metrics["HR@10"]
        assert result.data_fingerprint == store.fingerprint
        assert any("Most to win" in note for note in result.notes)
        assert result.config["settings"]["exclude_seen"] is False  # its users come back to what they had
        assert sum(part["targets"] for part in result.slices["item"].values()) == weights.sum()
    assert found["fused"].metrics["Merged"] == found["plain"].metrics["Merged"]
    again = run_row(Missing(table, made[0], 0), tmp_path / "stores", tmp_path / "runs", results)
    assert again.metrics["HR@10"] == found["fused"].metrics["HR@10"]


def test_the_four_together_and_a_channel_of_each_kind_go_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENCHANT_CACHE", str(tmp_path / "cache"))
    store = make_store(tmp_path / "stores" / "made-up", num_users=150, num_items=120, seed=2)
    text, image = str(save_text_model(tmp_path / "text")), str(save_image_model(tmp_path / "image"))
    encode_store(store, text=text, image=image, device="cpu")
    language = str(save_language_model(tmp_path / "language"))
    of = {row.name: row for row in rows() if row.data == DATA[0]}

    def small(run: FunnelRun) -> FunnelRun:
        channels = []
        for channel in shortened(run, 0.2).channels:
            tiny: Any = channel.run
            if isinstance(tiny, KarmaRun):
                model = replace(tiny.model, layers=1, width=8, backbone=language)
                continuation, warm_up = ContinuationConfig(steps=2, rows=4, length=12), WarmUpConfig(part="none")
                tiny = replace(tiny, model=model, continuation=continuation, warm_up=warm_up)
            channels.append(replace(channel, run=tiny))
        settings = replace(run.settings, merged_size=60, preranked_size=20)
        return replace(run, channels=tuple(channels), settings=settings, rank_targets=200, valid_targets=60)

    names = "four", "karma-alone", "ulim-alone-later", "t2diff-alone"
    made = tuple(replace(of[name], run=small(of[name].run), data="made-up") for name in names)
    table = ResultTable(paper="funnel", name="four", rows=made, seeds=1)
    for item in missing([table], tmp_path / "results", (), (), None):
        run_row(item, tmp_path / "stores", tmp_path / "runs", tmp_path / "results")
    found = {result.row: result for result in find_results(tmp_path / "results")}
    assert set(found) == set(names)
    assert all(result.metrics["HR@10"] is not None for result in found.values())
    assert {note.split(":")[0] for note in found["four"].notes if TRIED in note} == {"ulim", "t2diff"}

"""Diagnosing tiny runs: what is compared, what is left out with a word, what is refused, and the page."""

from __future__ import annotations

import io
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import AutoModel

from penchant.cli.main import main
from penchant.data.history import requests_before_events
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.encoders.encode import encode_store
from penchant.errors import ConfigError, RunError
from penchant.evaluation.diagnostics.decoder import DecoderConfig, decodability
from penchant.evaluation.diagnostics.page import render_page
from penchant.evaluation.diagnostics.report import GROUPS, Diagnosis, DiagnosticsReport, render_terminal
from penchant.evaluation.diagnostics.vectors import effective_rank, spectrum
from penchant.evaluation.protocol import evaluate_retrieval
from penchant.papers.karma import attention
from penchant.papers.karma.attention import attention_of
from penchant.papers.karma.model import KarmaConfig
from penchant.papers.karma.objective import KarmaObjectiveConfig
from penchant.recipes.controls import comirec_sa, popularity, sasrec
from penchant.recipes.diagnose import DiagnoseConfig, diagnose
from penchant.recipes.karma.readings import attention_readings
from penchant.recipes.karma.run import LEARNER, KarmaRun
from penchant.recipes.karma.stages import ContinuationConfig, WarmUpConfig
from penchant.recipes.runs import RUN, load_run, train_run
from penchant.recipes.ulim.run import ulim
from penchant.training.loop import TrainConfig
from tests.factories import make_store
from tests.tiny_models import save_language_model, save_text_model

QUIET = Console(quiet=True)
SMALL = DiagnoseConfig(targets=120, decoder=DecoderConfig(steps=4, rows=16, width=8, words=30, longest=4))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folders of tiny finished runs on one Store: popularity, sasrec, karma on frozen vectors and on texts."""
    folder = tmp_path_factory.mktemp("diagnosed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENCHANT_CACHE", str(folder / "cache"))
        store = make_store(folder / "store")
        encode_store(store, text=str(save_text_model(folder / "text")), image=None, device="cpu")
        split = load_split(store, "temporal-successive")
        language = str(save_language_model(folder / "language"))
        train = TrainConfig(epochs=0.5, tensorboard=False, device="cpu")
        karma = KarmaRun(
            model=KarmaConfig(layers=2, width=8, backbone=language, item_backbone=language, item_words=6),
            objective=KarmaObjectiveConfig(max_words=5),
            continuation=ContinuationConfig(steps=2, rows=4, length=12),
            warm_up=WarmUpConfig(part="none"),
            train=train,
        )
        reading = replace(karma.model, items="text", item_tune="top")
        made = {
            "popularity": popularity(),
            "sasrec": replace(sasrec(), train=train),
            "karma": karma,
            "reading": replace(karma, model=reading),
        }
        for name, run in made.items():
            train_run(run, store, split, folder / name)
        yield folder


@pytest.fixture(scope="module")
def report(runs: Path) -> DiagnosticsReport:
    folders = [runs / name for name in ("popularity", "sasrec", "karma", "reading")]
    return diagnose(folders, SMALL, QUIET)


def column(report: DiagnosticsReport, name: str) -> Diagnosis:
    return next(c for c in report.columns if c.name == name)


def test_every_number_that_a_model_can_have_is_there(report: DiagnosticsReport) -> None:
    all_of = {key for numbers in GROUPS.values() for key in numbers} - {
        "hr_rare",
        "popular",
    }  # no cold item, and of 79 items no list is beyond the 100 most popular
    for name in ("sasrec", "karma", "reading"):
        numbers = column(report, name).numbers
        assert set(numbers) - {"hr_rare"} == all_of
        assert all(np.isfinite(value) for value in numbers.values())
    named = ["popularity", "sasrec", "karma", "reading", "karma within", "reading within", "frozen text vectors"]
    assert [c.name for c in report.columns] == named


def test_numbers_are_those_of_the_runs_own_vectors(runs: Path, report: DiagnosticsReport) -> None:
    loaded = load_run(runs / "sasrec", device="cpu")
    items = loaded.model.item_vectors()[1:].detach().numpy()
    assert column(report, "sasrec").numbers["rank"] == pytest.approx(effective_rank(spectrum(items)))
    assert column(report, "sasrec").width == items.shape[1]
    assert column(report, "sasrec").targets == 120


def test_what_decoding_reads_is_diagnosed_beside_what_searches(runs: Path, report: DiagnosticsReport) -> None:
    model: Any = load_run(runs / "karma", device="cpu").model
    with torch.no_grad():
        tokens = model.tokens(torch.arange(1, model.num_items + 1)).numpy()
    within, outside = column(report, "karma within").numbers, column(report, "karma").numbers
    assert within["rank"] == pytest.approx(effective_rank(spectrum(tokens)), rel=1e-4)
    assert within["rank"] != pytest.approx(outside["rank"], rel=1e-4)
    assert set(outside) - set(within) >= {"alignment", "hr", "skew", "js"}
    assert {"user_rank", "ridge", "topics", "purity", "told_gain"} <= set(within)


def test_a_run_without_vectors_has_the_numbers_of_its_lists(report: DiagnosticsReport) -> None:
    lists = column(report, "popularity")
    assert {"skew", "coverage", "js", "js_others", "hr", "rare_targets"} <= set(lists.numbers)
    assert not {"rank", "user_rank", "purity", "told"} & set(lists.numbers)
    assert lists.notes[-1] == "popularity has no vectors: numbers of its lists alone."


def test_a_model_of_several_vectors_is_diagnosed_by_the_lists_it_serves(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    split = load_split(store, "temporal-successive")
    short = TrainConfig(epochs=0.2, tensorboard=False, device="cpu")
    runs = {
        "comirec": replace(comirec_sa(), train=short),
        "ulim": replace(ulim(), train=short, category_train=replace(short, metric="category HR@10")),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENCHANT_CACHE", str(tmp_path / "cache"))
        for name, run in runs.items():
            train_run(run, store, split, tmp_path / name)
    found = diagnose([tmp_path / name for name in runs], SMALL, QUIET)
    for name, of_users in (("comirec", False), ("ulim", True)):
        told = column(found, name)
        model: Any = load_run(tmp_path / name).model
        judged = evaluate_retrieval(
            model, store, split, "test", ks=(50,), max_len=model.config.max_len, targets=120
        ).metrics()
        assert told.numbers["hr"] == pytest.approx(judged["HR@50"])
        assert {"rank", "purity"} <= set(told.numbers)
        assert ("user_rank" in told.numbers) == of_users
        assert any("several vectors" in note for note in told.notes)


def test_attention_is_read_of_what_reads(report: DiagnosticsReport) -> None:
    assert not column(report, "sasrec").readings
    assert [(r.reader, r.weights) for r in column(report, "karma").readings] == [
        ("decoder", weights) for weights in ("trained", "untouched", "random")
    ]
    readings = column(report, "reading").readings
    assert [r.reader for r in readings] == ["decoder"] * 3 + ["item encoder"] * 3
    assert [len(r.heads) for r in readings] == [2, 2, 2, 1, 1, 1]  # of two layers the last alone learns
    for reading in (*readings, *column(report, "karma").readings):
        assert set(reading.pictures) == {(reading.below + layer + 1, 1) for layer in range(len(reading.heads))}
        for weights in reading.pictures.values():
            assert weights.sum(1) == pytest.approx(1, abs=1e-4)
            assert len(weights) == len(reading.labels)
            assert not np.triu(weights, 1).any()
    trained, untouched, drawn = readings[3:]
    assert trained.below == untouched.below == 1
    assert column(report, "reading").notes[-1] == (
        "the item encoder's layers below 2 were not trained: all columns have the pretrained ones."
    )
    assert trained.labels == untouched.labels
    assert set(trained.labels) <= {"red", "blue", "green", "wool", "silk", "oak", "steel", "glass", "thing", "[UNK]"}
    assert len({trained.heads, untouched.heads, drawn.heads}) == 3


def test_untouched_weights_are_the_pretrained_ones(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENCHANT_CACHE", str(tmp_path))
    store, described = Store(runs / "store"), load_run(runs / "reading").described
    # Continued on texts no further, what it begins with is what was saved.
    config = described["config"] | {"continuation": described["config"]["continuation"] | {"steps": 0}}
    asked: list[dict[str, torch.Tensor]] = []

    def spy(body: Any, inputs: dict[str, Any]) -> list[np.ndarray]:
        asked.append(body.state_dict())
        return attention_of(body, inputs)

    monkeypatch.setattr(attention, "attention_of", spy)
    events = load_split(store, "temporal-successive").events("test")
    attention_readings(runs / "reading", config, store, events, layers=(), heads=(1,), seed=0)
    saved = AutoModel.from_pretrained(runs / "language").state_dict()
    assert len(asked) == 6  # decoder and item encoder: trained, untouched, random
    top = (config["model"]["item_layers"] or 3) - config["model"]["item_top"]  # the lower ones are not held
    for lower, trained, untouched, drawn in ((0, *asked[:3]), (top, *asked[3:])):
        names = [name for name in untouched if name.startswith("layers.")]
        assert names
        was = {name: saved[_above(name, lower)] for name in names}
        for name in names:
            torch.testing.assert_close(untouched[name], was[name])
        assert any(not torch.equal(trained[name], was[name]) for name in names)
        assert any(not torch.equal(drawn[name], was[name]) for name in names)


def _above(name: str, lower: int) -> str:
    """The name of a layer's weight, with so many layers below it."""
    layers, number, rest = name.split(".", 2)
    return f"{layers}.{int(number) + lower}.{rest}"


def test_the_page_loads_nothing_and_shows_all(report: DiagnosticsReport) -> None:
    page = render_page(report)
    assert "synthetic data" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count("<svg") == 3  # two spectra and the hubs
    assert page.count('class="line dashed"') == 2 * 2  # what is within two runs, of items and users
    for place, name in enumerate(("popularity", "sasrec", "karma", "reading")):
        assert re.search(rf'style="background:var\(--c{place}\)"></i>{name}<', page)
    assert re.search(r'background:repeating-linear-gradient\(90deg,var\(--c2\)[^"]*"></i>karma within<', page)
    for name in ("popularity", "sasrec", "karma", "reading", "as it began", "random", "frozen text vectors"):
        assert name in page
    # Decoder: random, untouched and two trained, of two maps and two grids each; item encoder: three of one and two.
    assert page.count('class="map"') == 4 * 4 + 3 * 3
    assert "synthetic data" in render_page(replace(report, synthetic=True))


def test_the_table_says_which_way_collapse_is(report: DiagnosticsReport) -> None:
    console = Console(width=220, file=io.StringIO(), record=True)
    console.print(render_terminal(replace(report, synthetic=True)))
    text = console.export_text()
    assert "synthetic data" in text
    assert re.search(r"effective rank +low ", text)
    assert re.search(r"barcode index +high ", text)


def test_runs_of_another_split_and_rankers_are_refused(runs: Path, tmp_path: Path) -> None:
    store = Store(runs / "store")
    train_run(popularity(), store, load_split(store, "loo"), tmp_path / "loo")
    with pytest.raises(RunError, match=r"is of split 'loo'.*Compare runs of one Store and one split"):
        diagnose([runs / "popularity", tmp_path / "loo"], SMALL, QUIET)
    described = tmp_path / "loo" / RUN
    described.write_text(described.read_text().replace("CountRun", "RankingRun"))
    with pytest.raises(RunError, match="popularity ranks what it is given and has no lists of the catalogue"):
        diagnose([tmp_path / "loo"], SMALL, QUIET)
    with pytest.raises(RunError, match="no finished run here"):
        diagnose([tmp_path], SMALL, QUIET)


def test_a_karma_run_whose_backbone_is_gone_says_why_it_has_no_attention(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENCHANT_CACHE", str(tmp_path))
    language = runs / "language"
    away = language.rename(tmp_path / "away")
    try:
        found = diagnose([runs / "karma"], SMALL, QUIET).columns[0]
    finally:
        away.rename(language)
    assert not found.readings
    assert any(note.startswith("no attention: ") for note in found.notes)
    assert (runs / "karma" / LEARNER).is_dir()


def test_the_command_writes_table_and_page(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["--targets", "60", "--decoder.steps", "2"]
    assert main(["report", "diagnostics", str(runs / "popularity"), str(runs / "sasrec"), *short]) == 0
    assert "wrote diagnostics.html" in capsys.readouterr().out
    assert "Collapse diagnostics" in (tmp_path / "diagnostics.html").read_text()
    assert main(["report", "diagnostics", str(runs / "sasrec"), "--out", "nowhere/page.html"]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["report", "diagnostics", str(runs / "sasrec"), "--heads", "0"]) == 2
    assert "count from 1" in capsys.readouterr().err


def test_validation_tells_whether_items_collapse(runs: Path) -> None:
    for log in (runs / "sasrec", runs / "karma" / LEARNER):
        last = (log / "metrics.jsonl").read_text().splitlines()[-1]
        assert "valid/Effective rank" in last
        assert "valid/Mean cosine" in last
        assert "valid/Skew of occurrence" in last
        assert ("valid/Effective rank within" in last) == ("karma" in log.parts)


def test_numbers_are_those_of_a_loop_over_the_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each target with its own user's vector, items by their numbers, and hits of what was rarely seen."""
    store = make_store(tmp_path / "store", num_items=160)
    split = load_split(store, "temporal-successive")
    train_run(
        replace(sasrec(), train=TrainConfig(epochs=2, tensorboard=False, device="cpu")), store, split, tmp_path / "run"
    )
    asked: list[tuple[np.ndarray, ...]] = []

    def spy(users: np.ndarray, targets: np.ndarray, owners: np.ndarray, words: np.ndarray, *rest: Any) -> Any:
        asked.append((users, targets, owners, words))
        return decodability(users, targets, owners, words, *rest)

    monkeypatch.setattr("penchant.recipes.diagnose.decodability", spy)
    numbers = diagnose([tmp_path / "run"], SMALL, QUIET).columns[0].numbers
    model: Any = load_run(tmp_path / "run", device="cpu").model
    judged = evaluate_retrieval(model, store, split, "test", ks=(50,), max_len=model.config.max_len, targets=120)
    with torch.no_grad():
        items = model.item_vectors().numpy()
        users = [
            model.user_vectors(requests_before_events(store, np.array([event]), model.config.max_len))[0].numpy()
            for event in judged.events
        ]
    owners = [int(np.searchsorted(store.user_indptr, event, side="right")) - 1 for event in judged.events]
    targets = [int(store.event_item[event]) for event in judged.events]
    ((given, of_items, of_users, words),) = asked
    np.testing.assert_allclose(given, np.stack(users), rtol=1e-4, atol=1e-5)
    assert (of_items.tolist(), of_users.tolist()) == (targets, owners)
    assert words.shape[0] == store.num_items + 1
    apart = [
        np.square(u / np.linalg.norm(u) - items[i] / np.linalg.norm(items[i])).sum()
        for u, i in zip(users, targets, strict=True)
    ]
    assert numbers["alignment"] == pytest.approx(np.mean(apart), rel=1e-4)
    assert numbers["user_rank"] == pytest.approx(effective_rank(spectrum(np.stack(users))), rel=1e-3)
    centred = items[1:] - items[1:].mean(0)
    assert numbers["rank_centred"] == pytest.approx(effective_rank(spectrum(centred)), rel=1e-3)

    unit = items / np.maximum(np.linalg.norm(items, axis=1, keepdims=True), 1e-9)
    pure = []
    for item in range(1, store.num_items + 1):
        near = sorted(
            (other for other in range(1, store.num_items + 1) if other != item), key=lambda o: -unit[item] @ unit[o]
        )
        pure += [store.item_category[other] == store.item_category[item] for other in near[:10]]
    assert numbers["purity"] == pytest.approx(np.mean(pure), abs=0.01)

    seen = Counter(store.event_item[split.events("train")].tolist())
    rare = [seen[item] <= 5 for item in targets]
    hits = [item in found for item, found in zip(targets, judged.lists[:, :50].tolist(), strict=True)]
    assert 0 < sum(rare) < len(rare)
    assert numbers["rare_targets"] == sum(rare)
    assert numbers["hr_rare"] == pytest.approx(np.mean([hit for hit, few in zip(hits, rare, strict=True) if few]))
    popular = set(sorted(range(1, store.num_items + 1), key=lambda item: (-seen[item], item))[:100])
    assert numbers["popular"] == pytest.approx(
        np.mean([set(found) <= popular for found in judged.lists[:, :50].tolist()])
    )


def test_layers_and_heads_that_are_not_there_are_said(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENCHANT_CACHE", str(runs / "cache"))
    one = diagnose([runs / "karma"], replace(SMALL, layers=(2, 9), heads=(2, 99)), QUIET).columns[0]
    assert [set(r.pictures) for r in one.readings] == [{(2, 2)}] * 3
    heads = len(one.readings[0].heads[0])
    assert f"no maps of layer 9, head 99: the decoder has layers 1 to 2, and heads 1 to {heads}." in one.notes


@pytest.mark.parametrize("field", ["steps", "rows", "width", "words", "longest", "lr"])
def test_a_decoder_of_nothing_is_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=f"{field} is 0"):
        DecoderConfig(**{field: 0})

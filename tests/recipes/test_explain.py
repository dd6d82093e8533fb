"""penchant explain: a run that was taught to be read is read, in a terminal and as a page."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.reading import GAP, TILE, contact_sheet, examples, explained_of, metrics_of
from PIL import Image
from safetensors.torch import load_file

from penchant.cli.main import main
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.encoders.encode import encode_store
from penchant.errors import BundleError, ConfigError, RunError
from penchant.evaluation.protocol import subsample
from penchant.funnel.pipeline import ChannelSettings, FunnelSettings, save_settings
from penchant.models import build_model, save_model, sizes_of
from penchant.recipes.controls import sasrec
from penchant.recipes.karma.build import item_texts
from penchant.recipes.karma.explain import APART, CHOICES, Explainer, _by_frequency, _by_popularity
from penchant.recipes.karma.explained import small_pictures
from penchant.recipes.karma.served import BundleReader, export_reader
from penchant.recipes.runs import load_run, train_run
from penchant.serve.bundle import Bundle
from penchant.serve.events import EventLog
from penchant.serve.export import export
from penchant.serve.service import FieldError, Service
from tests.factories import make_store
from tests.recipes.test_karma import RUN
from tests.tiny_models import encoded, save_language_model, save_text_model


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("explain")
    return encoded(make_store(folder / "store"), folder, pictures=True)


@pytest.fixture(scope="module")
def run(market: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explained")
    backbone = str(save_language_model(folder / "language"))
    taught = replace(
        RUN,
        model=replace(RUN.model, backbone=backbone, item_backbone=backbone),
        objective=replace(RUN.objective, picture=0.1, head=replace(RUN.objective.head, width=8, blocks=1, steps=2)),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENCHANT_CACHE", str(folder / "cache"))
        train_run(taught, market, load_split(market, "temporal-successive"), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def reads(run: Path) -> Explainer:
    return Explainer(run, load_run(run, device="cpu"))


def test_an_interest_is_words_items_and_pictures(reads: Explainer, market: Store) -> None:
    users = reads.drawn(4, seed=1)
    assert len(set(users)) == 4
    assert users == reads.drawn(4, seed=1)
    explained = reads.explain(users, k=6)
    for one, user_id in zip(explained, users, strict=True):
        user = market.user_ids.index(user_id)
        events = slice(*market.user_indptr[user : user + 2])
        assert list(one.history) == market.event_item[events][-50:][::-1].tolist()
        assert len(set(one.nearest)) == len(set(one.pictures)) == 6
        assert all(market.vectors("image").present[item] for item in one.pictures)
        alone = reads.explain([user_id], k=6)[0]
        assert (alone.words, alone.nearest) == (one.words, one.nearest)


@pytest.mark.parametrize("part", ["model", "objective"])
def test_a_placebo_is_not_read(part: str, run: Path) -> None:
    loaded = load_run(run, device="cpu")
    config = loaded.described["config"]
    placebo = {**loaded.described, "config": {**config, part: {**config[part], "shuffled": True}}}
    with pytest.raises(RunError, match="is a placebo: it was taught other items' texts"):
        Explainer(run, replace(loaded, described=placebo))


def test_words_are_checked_on_clicks_nobody_has_seen(reads: Explainer) -> None:
    checked = reads.readability("test", targets=60)
    assert set(checked.nats) == {"own", "another's", "nobody's", "popular titles", "word frequencies"}
    assert set(checked.overlap) == {"own", "another's", "popular titles"}
    assert all(np.isfinite(values).all() and (values > 0).all() for values in checked.nats.values())
    assert all(((values >= 0) & (values <= 1)).all() for values in checked.overlap.values())
    assert len({len(v) for v in (*checked.nats.values(), *checked.overlap.values(), checked.users)}) == 1
    assert set(checked.pictures) == {"own", "another's", "nobody's"}
    assert set(checked.measures()) == {"Nats a word", APART, "Title's terms told", "Picture among 10"}
    assert any("own against another's" in line for line in checked.lines())
    # Whole texts are few, words in any order are many.
    assert checked.nats["popular titles"].mean() < checked.nats["word frequencies"].mean()


def test_what_knows_the_next_item_is_told_apart_by_the_sign_of_its_gains(
    reads: Explainer, market: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vector that is the number of the very item clicked next, and a reader that tells that item's text."""
    events = subsample(reads.split.targets("test"), 60, 0)[0]
    items = torch.from_numpy(market.event_item[events].astype(np.int64))
    texts = reads._texts

    def nll(model: object, h: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        return torch.where((texts[h[:, 0].long()] == words).all(1), 0.01, 0.02)

    monkeypatch.setattr(reads, "_pictures", None)
    monkeypatch.setattr(reads, "_read", lambda requests: (items[:, None].expand(-1, 4).float(), torch.ones(60)))
    monkeypatch.setattr(reads.reader, "nll", nll)
    monkeypatch.setattr(reads.reader, "tell", lambda model, h: texts[h[:, 0].long()])
    checked = reads.readability("test", targets=60)
    assert checked.nats["own"] == pytest.approx(0.01)
    assert checked.overlap["own"] == pytest.approx(0.75)  # of four terms the number is no word of the tiny tokenizer
    means = {name: float(values.mean()) for name, values in checked.nats.items()}
    assert means["own"] < means["another's"] < means["popular titles"] < means["word frequencies"]
    fewer, more = checked.gains("Nats a word"), checked.gains("Title's terms told")
    assert set(fewer) == set(means) - {"own"}
    assert all(gain.low <= gain.value <= gain.high < 0 for gain in fewer.values())  # of nats, own has fewer
    assert all(0 < gain.low <= gain.value <= gain.high for gain in more.values())
    rows = metrics_of(checked)
    assert set(rows) == {"karma", "another-user", "nobody", "most-popular", "word-frequencies"}
    assert rows["karma"] == pytest.approx(
        {"Nats a word": 0.01, "Title's terms told": 0.75, APART: float(checked.apart["own"].mean())}
    )
    assert rows["most-popular"][APART] == pytest.approx(np.log(CHOICES))
    assert rows["another-user"]["Nats a word"] == pytest.approx(means["another's"])
    assert rows["most-popular"]["Nats a word: own less this, from"] == fewer["popular titles"].low
    assert rows["most-popular"]["Nats a word: own less this, to"] == fewer["popular titles"].high
    assert rows["another-user"]["Title's terms told: own less this, from"] == more["another's"].low


def test_texts_are_told_apart_by_how_much_likelier_the_vector_makes_them(
    reads: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of any text nobody's vector makes a word cost 1 nat; the right one's its own 0.5, a wrong one's the right 1.5."""
    texts = reads._texts
    (told,) = np.nonzero((texts >= 0).any(1).numpy())
    items = told[:6]
    counts = np.zeros(len(texts), dtype=np.int64)

    def nll(model: object, h: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        mine = (texts[h[:, 0].long().abs()] == words).all(1)
        return torch.where(mine, 1 - 0.5 * h[:, 0].sign(), 1.0)

    monkeypatch.setattr(reads.reader, "nll", nll)
    own = torch.from_numpy(items)[:, None].float()
    sides = {"own": own, "another's": -own, "nobody's": torch.zeros_like(own)}
    found = reads._told_apart(sides, items, counts, seed=0)
    drawn = np.random.default_rng(0).choice(told, (6, CHOICES - 1), p=np.full(len(told), 1 / len(told)))
    for row, item in enumerate(items):
        same = 1 + int((texts[drawn[row]] == texts[item]).all(1).sum())
        for name, sign in (("own", 0.5), ("another's", -0.5)):
            weight = float(np.exp(sign * int((texts[item] >= 0).sum())))
            assert found[name][row] == pytest.approx(-np.log(weight / (same * weight + CHOICES - same)), rel=1e-4)
    assert found["popular titles"] == pytest.approx(np.log(CHOICES))
    counts[told[7]] = 10**6  # drawn by clicks: nearly always this one
    texts_then = reads._told_apart(sides | {"own": torch.full_like(own, float(told[7]))}, items, counts, seed=0)["own"]
    assert (texts_then > found["popular titles"]).all()


def test_a_picture_is_found_where_it_is_the_one_told(
    reads: Explainer, market: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = market.vectors("image")
    items = np.flatnonzero(vectors.present)[:20]
    right = torch.from_numpy(vectors.standardised())[items]
    monkeypatch.setattr(reads.reader, "picture", lambda states: right if states[0, 0] > 0 else -right)
    assert reads._found(torch.ones(len(items), 4), items).all()
    assert not reads._found(-torch.ones(len(items), 4), items).any()


def test_popular_texts_are_told_word_by_word_by_the_clicks_on_what_begins_so() -> None:
    texts = [[], [0, 1, 4], [0, 1, 4], [0, 2, 3], [0, 4], [2, 0, 1], []]
    clicks = [0, 5, 2, 1, 0, 3, 9]
    padded = torch.tensor([text + [-1] * (3 - len(text)) for text in texts])
    told = _by_popularity(padded, torch.tensor(clicks)).numpy()

    def often(prefix: list[int]) -> int:
        return sum(n + 1 for text, n in zip(texts, clicks, strict=True) if text and text[: len(prefix)] == prefix)

    for text, nats in zip(texts, told, strict=True):
        words = [-np.log(often(text[: n + 1]) / often(text[:n])) for n in range(len(text))]
        assert nats == pytest.approx(np.mean(words) if text else np.nan, nan_ok=True)


def test_frequencies_tell_what_is_clicked_often_in_fewer_nats() -> None:
    texts = torch.tensor([[-1, -1], [0, 1], [2, -1]])
    told = _by_frequency(texts, torch.tensor([0, 5, 2]), texts[1:])
    often = np.array([6, 6, 3]) / 15
    np.testing.assert_allclose(told.numpy(), [-np.log(often[:2]).mean(), -np.log(often[2])], rtol=1e-6)


def test_a_model_of_queries_is_read_with_what_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENCHANT_CACHE", str(tmp_path / "cache"))
    store = make_store(tmp_path / "store", searches=True)
    encode_store(store, text=str(save_text_model(tmp_path / "text")), image=None, device="cpu")
    backbone = str(save_language_model(tmp_path / "language"))
    asked = replace(
        RUN,
        model=replace(RUN.model, backbone=backbone, item_backbone=backbone, query="token"),
        data=replace(RUN.data, queries=True),
    )
    train_run(asked, store, load_split(store, "temporal-successive"), tmp_path / "run")
    reads = Explainer(tmp_path / "run", load_run(tmp_path / "run", device="cpu"))
    (user,) = reads.drawn(1)
    one, other = (reads.explain([user], [query])[0] for query in ("red", "blue lamp"))
    assert one.history == other.history
    assert (one.words, one.nearest) != (other.words, other.nearest)
    assert main(["explain", str(tmp_path / "run"), "--user", user, "--query", "red"]) == 0


def test_a_list_longer_than_the_catalogue_ends_where_that_does(reads: Explainer, market: Store) -> None:
    one = reads.explain(reads.drawn(1), k=market.num_items + 5)[0]
    assert sorted(one.nearest) == list(range(1, market.num_items + 1))
    assert sorted(one.pictures) == np.flatnonzero(market.vectors("image").present).tolist()


def test_ids_and_words_are_printed_as_they_are(
    run: Path, reads: Explainer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    user = reads.drawn(1)[0]
    said = replace(reads.explain([user])[0], user_id="[/x]", words="a [bold] word [/]")
    monkeypatch.setattr(Explainer, "explain", lambda *given: [said])
    assert main(["explain", str(run), "--user", user, "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "User [/x]" in printed
    assert "a [bold] word [/]" in printed


def test_the_command_prints_and_writes_a_page(
    run: Path, reads: Explainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    user, page = reads.drawn(1)[0], tmp_path / "interests.html"
    given = ["explain", str(run), "--user", user, "--check", "40", "--out", str(page), "--device", "cpu"]
    assert main(given) == 0
    said, written = capsys.readouterr().out, page.read_text()
    one = reads.explain([user])[0]
    for text in (said, written):
        assert one.words in text
        assert reads.titles[one.nearest[0]] in text
        assert "own against another's" in text.replace("&#39;", "'")
    assert "data:image/jpeg;base64," in written
    assert "<script" not in written
    assert "http" not in written.replace("http-equiv", "")


def test_what_cannot_be_explained_is_said_by_name(
    market: Store, run: Path, reads: Explainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="no user 'nobody'"):
        reads.explain(["nobody"])
    with pytest.raises(ConfigError, match="reads no queries"):
        reads.explain(reads.drawn(1), ["red"])
    assert main(["explain", str(run)]) == 2
    assert "--user ID" in capsys.readouterr().err
    ids = sasrec()
    ids = replace(ids, train=replace(ids.train, epochs=0.1, tensorboard=False, device="cpu"))
    train_run(ids, market, load_split(market, "loo"), tmp_path / "sasrec")
    with pytest.raises(RunError, match="sasrec has no words"):
        Explainer(tmp_path / "sasrec", load_run(tmp_path / "sasrec", device="cpu"))


@pytest.fixture(scope="module")
def funnel(market: Store, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A funnel of the run and popularity, without scorers."""
    folder = tmp_path_factory.mktemp("funnel") / "run"
    shutil.copytree(run, folder / "channels" / "karma")
    popularity = build_model("popularity", {}, sizes_of(market))
    popularity.fit(market, load_split(market, "temporal-successive"))
    save_model(popularity, folder / "channels" / "popularity")
    channels = tuple(ChannelSettings(name=name, k=20) for name in ("karma", "popularity"))
    settings = FunnelSettings(channels=channels, merge="rrf", merged_size=20, preranked_size=20)
    save_settings(settings, folder, load_split(market, "temporal-successive"), None)
    return folder


def test_a_bundle_tells_the_interests_that_its_run_does(
    funnel: Path, market: Store, reads: Explainer, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="has no reader"):
        BundleReader(export(funnel, market, tmp_path / "plain"))
    bundle = export(funnel, market, tmp_path / "bundle", readers=export_reader)
    files = {name for name in bundle.manifest["files"] if name.startswith("readers/")}
    assert {"readers/karma/reader.json", "readers/karma/reader.safetensors"} <= files
    assert all(name.removeprefix("readers/karma/").startswith(("reader.", "tokenizer/")) for name in files)
    assert not any(name.startswith("painter") for name in load_file(bundle.path / "readers/karma/reader.safetensors"))
    assert not (bundle.path / "channels" / "karma" / "reader").exists()
    user = reads.drawn(1)[0]
    service = Service(bundle, EventLog(tmp_path / "events.sqlite"), reader=BundleReader(bundle))
    told, expected = service.interest(user, None, None, 6), reads.explain([user], k=6)[0]
    assert told["words"] == expected.words
    assert [item["id"] for item in told["nearest"]] == [market.item_ids[i] for i in expected.nearest]
    history = [market.item_ids[item] for item in reversed(expected.history)]
    assert service.interest(None, history, None, 6)["words"] == expected.words
    nobody = service.interest("a new visitor", None, None, 6)
    assert (nobody["words"], nobody["nearest"]) == ("", [])
    assert nobody["reason"] == "there is no history to read"
    with pytest.raises(FieldError, match="reads no queries"):
        service.interest(user, None, "red", 6)


def test_a_damaged_or_missing_reader_is_named(funnel: Path, market: Store, tmp_path: Path) -> None:
    bundle = export(funnel, market, tmp_path / "bundle", readers=export_reader)
    (bundle.path / "readers" / "karma" / "reader.json").write_text("{}")
    with pytest.raises(BundleError, match="damaged or of another version"):
        BundleReader(bundle)
    with pytest.raises(BundleError, match="not those that were exported"):
        Bundle.load(bundle.path)
    without = tmp_path / "run"
    shutil.copytree(funnel, without)
    shutil.rmtree(without / "channels" / "karma" / "reader")
    with pytest.raises(RunError, match="no channel was taught to tell its vectors"):
        export(without, market, tmp_path / "other", readers=export_reader)
    assert not (tmp_path / "other").exists()


def test_examples_are_shown_of_generated_data_alone(reads: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="is real data"):
        explained_of(reads, 3)
    monkeypatch.setitem(reads.store.manifest, "synthetic", True)
    explained = explained_of(reads, 4)
    page = examples(reads, explained)
    users = [line.split(" | ")[0].removeprefix("| ") for line in page.splitlines() if line.startswith("| u")][1:]
    assert users == reads.drawn(4)
    assert "karma: Picture among 10}}" in page
    said = ("red", " ".join(item_texts(reads.store)[4].split()[:3]), "words of no item", "")
    shown = [replace(one, words=words, pictures=()) for one, words in zip(explained, said, strict=True)]
    page = examples(reads, shown)
    assert "Of the 4\ntexts told 2 are exactly how an item's text begins." in page
    assert f"{{{{benchmarks/reading@{reads.store.name} karma: Nats a word}}}}" in page
    assert "icture" not in page  # where none is told


def test_a_contact_sheet_shows_each_users_pictures_in_their_places(reads: Explainer, market: Store) -> None:
    one = reads.explain(reads.drawn(1))[0]
    there = [item for item in range(1, market.num_items + 1) if small_pictures(market, {item})[item]][:3]
    shown = [replace(one, history=(there[0],), pictures=(there[1], there[2]), nearest=()), one]
    sheet = contact_sheet(market, shown, shown=2).convert("RGB")
    assert sheet.size == (3 * (2 * (TILE + 2) + GAP) - GAP, 2 * (TILE + 2))
    row = np.asarray(sheet)[: TILE + 2].astype(int)
    starts = [0, 2 * (TILE + 2) + GAP, 3 * (TILE + 2) + GAP]
    for item, x in zip(there, starts, strict=True):
        tile = np.asarray(Image.open(io.BytesIO(small_pictures(market, {item}, (TILE, TILE))[item])).convert("RGB"))
        placed = row[: tile.shape[0], x : x + tile.shape[1]]
        assert abs(placed - tile).mean() < 12  # of 255: colours of a palette
    assert (row[:, TILE + 2 : starts[1]] == 255).all()
    assert (row[:, starts[2] + TILE + 2 :] == 255).all()

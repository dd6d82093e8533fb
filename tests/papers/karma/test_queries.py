"""KARMA with queries: training reads what serving reads, nobody sees a query but its own answer, typos stay near."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from penchant.data.batch import SequenceBatch
from penchant.data.store import Store
from penchant.encoders.backbone import load_backbone
from penchant.errors import ConfigError
from penchant.models import sizes_of
from penchant.papers.karma import objective as training
from penchant.papers.karma.language import Language
from penchant.papers.karma.model import Karma, KarmaConfig
from penchant.papers.karma.objective import KarmaObjective, KarmaObjectiveConfig
from penchant.papers.karma.queries import MOST, piece_table, pieces
from penchant.recipes.karma.build import Beginning, build_karma, read_texts
from tests.checkerboard import requests_of
from tests.factories import make_store

HISTORY = torch.tensor([[3, 1, 4, 2], [5, 9, 0, 0]])
TARGETS = torch.tensor([[1, 4, 2, 8], [9, 7, 0, 0]])
BEFORE = torch.tensor([[1, 0, 2, 3], [0, 2, 0, 0]])
ASKED = torch.tensor([[0, 2, 3, 1], [2, 4, 0, 0]])
BATCH = SequenceBatch(HISTORY, TARGETS, None, ASKED, BEFORE)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, market: Store) -> Store:
    store = make_store(tmp_path_factory.mktemp("searched") / "store", searches=True)
    (store.path / "vectors").mkdir(exist_ok=True)
    (store.path / "vectors" / "text").symlink_to((market.path / "vectors" / "text").resolve())
    return store


def build(store: Store, folder: Path, query: Any) -> tuple[Karma, KarmaObjective]:
    backbone = load_backbone(str(folder), num_layers=2, device="cpu")
    torch.manual_seed(1)
    config = KarmaConfig(backbone=str(folder), width=8, query=query)
    model = build_karma(config, Beginning(backbone, "x"), store, sizes_of(store)).eval()
    texts = read_texts(store, backbone.tokenizer, 5)
    shares = torch.full((store.num_items + 1,), 1 / store.num_items)
    goals = KarmaObjectiveConfig(act="pairwise", generate=1.0, reconstruct=1.0, max_words=5)
    return model, KarmaObjective(goals, texts.words, shares, Language.of(backbone.model, texts.vocabulary)).eval()


@pytest.mark.parametrize("query", ["token", "interleaved"])
def test_every_position_of_training_is_what_serving_would_have_read(
    searched: Store, language_folder: Path, query: Any
) -> None:
    model, _ = build(searched, language_folder, query)
    assert model.query is not None
    texts = searched.query_texts
    with torch.no_grad():
        read = model.read(model.tokens(HISTORY), model.query.known(ASKED), model.query.known(BEFORE)[:, 0])
        trained = model.users(read)
        for row, length in ((0, 4), (1, 2)):
            for n in range(1, length + 1):
                request = replace(
                    requests_of(HISTORY[row, :n].tolist()),
                    queries=(texts[int(ASKED[row, n - 1])],),
                    history_queries=BEFORE[row : row + 1, :n],
                )
                torch.testing.assert_close(model.user_vectors(request)[0], trained[row, n - 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("query", ["token", "interleaved"])
def test_nobody_sees_a_query_but_what_comes_after_it(searched: Store, language_folder: Path, query: Any) -> None:
    model, _ = build(searched, language_folder, query)
    assert model.query is not None
    other = ASKED.clone()
    other[0, 1] = 5
    with torch.no_grad():
        reads = [
            model.read(model.tokens(HISTORY), model.query.known(asked), model.query.known(BEFORE)[:, 0])
            for asked in (ASKED, other)
        ]
    moved = (reads[0] - reads[1]).abs().amax(2) > 1e-6
    later = [query == "interleaved"] * 2
    assert moved[0].tolist() == [False, True, *later]
    assert not moved[1].any()


@pytest.mark.parametrize("query", ["token", "interleaved"])
def test_text_is_decoded_after_history_and_query_and_h_does_not_see_it(
    searched: Store, language_folder: Path, query: Any
) -> None:
    model, objective = build(searched, language_folder, query)
    before = {k: v.item() for k, v in objective(model, BATCH).items()}
    asked = ASKED.clone()
    asked[0, -1] = 5
    changed = {k: v.item() for k, v in objective(model, replace(BATCH, queries=asked)).items()}
    assert all(before[k] != changed[k] for k in ("act", "generate", "reconstruct")), "the last query is read"
    objective.words[[8, 7]] = objective.words[[20, 21]]
    other = {k: v.item() for k, v in objective(model, BATCH).items()}
    assert other["act"] == before["act"]
    assert other["generate"] != before["generate"]


def test_some_queries_are_read_without_their_history(
    searched: Store, language_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, objective = build(searched, language_folder, "token")
    assert model.query is not None
    monkeypatch.setattr(training, "ALONE", 1.0)
    objective.train()
    other = replace(BATCH, history=torch.where(HISTORY > 0, HISTORY % 7 + 1, 0))
    with torch.no_grad():
        first, second = (objective(model, batch)["act"] for batch in (BATCH, other))
    assert float(first) == pytest.approx(float(second), rel=1e-5)


def test_batches_without_queries_are_refused(searched: Store, language_folder: Path) -> None:
    model, objective = build(searched, language_folder, "token")
    with pytest.raises(ConfigError, match=r"Set data\.queries to True"):
        objective(model, SequenceBatch(HISTORY, TARGETS))


def test_a_query_is_its_words_and_their_pieces() -> None:
    assert pieces("Red wool") == pieces("red  WOOL")
    assert pieces("") == pieces("--") == []
    assert len(pieces("abc")) == 1 + 3
    assert pieces("abc")[1:3] == pieces("abd")[1:2] + pieces("abc")[2:3]
    assert len(pieces("word " * 50)) == MOST
    shared = len(set(pieces("umbrela")) & set(pieces("umbrella")))
    assert shared > 4 > len(set(pieces("umbrella")) & set(pieces("kettle")))
    table = piece_table(["", "red wool"])
    assert table[0].tolist() == [0] * table.shape[1]
    assert table[1].tolist() == pieces("red wool")


def test_a_query_from_the_logs_and_the_same_one_typed_are_one_token(searched: Store, language_folder: Path) -> None:
    model, _ = build(searched, language_folder, "token")
    assert model.query is not None
    numbers = torch.arange(len(searched.query_texts))
    torch.testing.assert_close(model.query.known(numbers), model.query(searched.query_texts))
    assert len(torch.unique(model.query(["", "red", "red wool"]), dim=0)) == 3

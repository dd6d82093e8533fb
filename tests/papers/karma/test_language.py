"""The catalogue's words: numbered, cut out of a language model, continued; perplexity by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from penchant.encoders.backbone import load_backbone
from penchant.papers.karma.language import Continuation, Language, Texts, Vocabulary, WordBatches, perplexity
from penchant.recipes.karma.stages import Cut
from tests.tiny_models import save_language_model

TEXTS = [[4, 7, 5], [9], [], [5, 5, 11, 4]]


@given(st.lists(st.lists(st.integers(0, 60), max_size=8), max_size=8), st.integers(0, 60), st.integers(0, 60))
def test_the_catalogues_words_are_numbered_without_loss(texts: list[list[int]], begin: int, end: int) -> None:
    vocabulary = Vocabulary.of(texts, begin, end)
    assert set(vocabulary.tokens.tolist()) == {begin, end}.union(*map(set, texts))
    for text in texts:
        assert vocabulary.tokens[vocabulary.numbers(text)].tolist() == text
    assert (vocabulary.tokens[vocabulary.begin], vocabulary.tokens[vocabulary.end]) == (begin, end)


@given(st.integers(1, 9), st.integers(1, 7))
def test_runs_hold_every_word_once_in_order(length: int, rows: int) -> None:
    vocabulary = Vocabulary.of(TEXTS, 2, 3)
    batches = WordBatches([vocabulary.numbers(t) for t in TEXTS], vocabulary, length, rows, 0)
    told = batches.runs[:, 1:].flatten()
    expected = [word for text in TEXTS if text for word in (*text, 3)]
    assert vocabulary.tokens[told[told >= 0]].tolist() == expected
    assert (batches.runs[:, 0] == vocabulary.begin).all()
    steps = range(batches.steps_per_epoch)
    seen = torch.cat([batches.batch(step).words for step in steps])
    assert len(torch.unique(seen, dim=0)) == len(torch.unique(batches.runs, dim=0)) or len(batches.runs) % rows
    assert torch.equal(batches.batch(3).words, batches.batch(3).words)


def test_words_of_a_language_model_are_its_rows_and_perplexity_is_by_the_word(tmp_path: Path) -> None:
    backbone = load_backbone(str(save_language_model(tmp_path / "language")), num_layers=2, device="cpu")
    vocabulary = Vocabulary.of(TEXTS, 2, 3)
    texts = Texts(vocabulary, tuple(vocabulary.numbers(t) for t in TEXTS), 4)
    language, tokens = Language.of(backbone.model, vocabulary), torch.from_numpy(vocabulary.tokens)
    assert language.own_head is not None
    torch.testing.assert_close(language.words.weight, backbone.model.get_input_embeddings().weight[tokens])
    batches = WordBatches(texts.whole, vocabulary, 5, 2, 0)
    nll = []
    for run in batches.runs:
        real = run[run >= 0]
        logits = backbone.model(input_ids=tokens[real[:-1]][None]).logits[0][:, tokens]
        nll.append(F.cross_entropy(logits, real[1:], reduction="none"))
    expected = float(torch.cat(nll).mean().exp().detach())
    assert perplexity(Cut(backbone).eval(), language, batches) == pytest.approx(expected, rel=1e-4)


def test_texts_end_where_they_fit_and_an_item_without_one_has_no_word() -> None:
    vocabulary = Vocabulary.of(TEXTS, 2, 3)
    texts = Texts(vocabulary, tuple(vocabulary.numbers(t) for t in TEXTS), 4)
    said = [[int(vocabulary.tokens[w]) for w in row if w >= 0] for row in texts.words]
    assert said == [[], [4, 7, 5, 3], [9, 3], [], [5, 5, 11, 4]]
    assert texts.cut == 1


def test_nothing_to_tell_costs_nothing_and_gives_no_gradient(tmp_path: Path) -> None:
    backbone = load_backbone(str(save_language_model(tmp_path / "language")), num_layers=2, device="cpu")
    language = Language.of(backbone.model, Vocabulary.of(TEXTS, 2, 3), rate=0.5)
    states = torch.randn(2, 3, 16, requires_grad=True)
    nll = language.nll(states, torch.full((2, 3), -1))
    nll.backward()
    assert nll.item() == 0.0
    assert not np.any(states.grad.numpy() if states.grad is not None else 0)
    assert {getattr(p, "lr_share", None) for p in language.parameters()} == {0.5}
    assert isinstance(Continuation(language), torch.nn.Module)

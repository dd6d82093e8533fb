"""Reading h_t: the words are those that Task 2 finds likeliest, from h_t alone, and what learned them is kept."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from penchant.data.store import Store
from penchant.errors import RunError
from penchant.papers.karma.reader import TOKENIZER, InterestReader, Spelling
from tests.checkerboard import requests_of
from tests.papers.karma.test_karma import BOTH, Parts, parts


@pytest.fixture
def karma(market: Store, language_folder: Path) -> Parts:
    made = parts(market, language_folder, replace(BOTH, max_words=6))
    with torch.no_grad():  # a fresh adapter says much the same of everybody
        next(made.objective.adapter.parameters()).mul_(8.0)
    return made


@torch.no_grad()
def test_the_words_are_the_likeliest_one_after_the_other(karma: Parts) -> None:
    model, objective, _ = karma
    h, _ = model.last_states(requests_of([1, 2, 3], [9], [20, 4]))
    reader = InterestReader.of(objective)
    told = reader.tell(model, h)
    assert told.shape[1] <= 6
    language = objective.language
    assert language is not None
    end, head = language.vocabulary.end, language.words.weight if language.own_head is None else language.own_head
    for row in range(3):
        words: list[int] = []
        while len(words) < 6:
            states = objective.told_from(model, h[row : row + 1], torch.tensor([[*words, 0]]))
            word = int((states[0, -1] @ head.T).argmax())
            if word == end:
                break
            words.append(word)
        assert [w for w in told[row].tolist() if w >= 0] == words


@torch.no_grad()
def test_whose_vector_is_read_decides_what_is_told(karma: Parts) -> None:
    model, objective, _ = karma
    reader = InterestReader.of(objective)
    h, _ = model.last_states(requests_of([1, 2, 3], [30, 9, 17]))
    one, other = reader.tell(model, h)
    assert not torch.equal(one, other)
    swapped = reader.tell(model, h.flip(0))
    assert torch.equal(swapped[0], other)
    assert torch.equal(swapped[1], one)


@torch.no_grad()
def test_nats_a_word_are_those_that_it_learned_by(karma: Parts) -> None:
    model, objective, _ = karma
    h, _ = model.last_states(requests_of([1, 2], [3], [4, 5]))
    words = objective.words[torch.tensor([3, 7, 12])].clone()
    words[1, 2:] = -1
    reader = InterestReader.of(objective)
    own = reader.nll(model, h, words)
    for row in range(3):
        mine = slice(row, row + 1)
        expected = objective._nll(objective.told_from(model, h[mine], words[mine]), words[mine])
        torch.testing.assert_close(own[row], expected)
    assert reader.nll(model, h[:1], torch.full((1, 4), -1)).tolist() == [0.0]


@torch.no_grad()
@pytest.mark.parametrize("literal", [False, True])
def test_it_comes_back_as_saved(market: Store, language_folder: Path, tmp_path: Path, literal: bool) -> None:
    model, objective, backbone = parts(market, language_folder, replace(BOTH, literal=literal))
    reader = InterestReader.of(objective)
    reader.save(tmp_path, backbone.tokenizer)
    again = InterestReader.load(tmp_path)
    h, _ = model.last_states(requests_of([1, 2], [3]))
    words = objective.words[torch.tensor([3, 7])]
    assert torch.equal(again.nll(model, h, words), reader.nll(model, h, words))
    assert torch.equal(again.tell(model, h), reader.tell(model, h))
    spelling = Spelling.load(tmp_path, again)
    title = market.table("items", ["title"])["title"].to_pylist()[6]
    known = " ".join(word for word in title.split() if not word.isdigit())
    assert spelling.spelt(objective.words[7]).startswith(known.split()[0])
    assert spelling.spelt(torch.tensor([-1, -1])) == ""


def test_what_tells_nothing_has_no_reader(market: Store, language_folder: Path, tmp_path: Path) -> None:
    silent = parts(market, language_folder, replace(BOTH, reconstruct=0.0)).objective
    with pytest.raises(ValueError, match="does not tell"):
        InterestReader.of(silent)
    with pytest.raises(RunError, match=r"reconstruct above 0"):
        InterestReader.load(tmp_path)


def test_a_damaged_reader_is_refused_by_its_folder(karma: Parts, tmp_path: Path) -> None:
    reader = InterestReader.of(karma.objective)
    reader.save(tmp_path, karma.backbone.tokenizer)
    (tmp_path / "reader.safetensors").write_bytes(b"no tensors")
    with pytest.raises(RunError, match="damaged"):
        InterestReader.load(tmp_path)
    with pytest.raises(ValueError, match="no pictures"):
        reader.picture(torch.zeros(1, 16))


def test_a_tokenizer_that_is_damaged_or_gone_is_an_error_that_says_so(karma: Parts, tmp_path: Path) -> None:
    reader = InterestReader.of(karma.objective)
    reader.save(tmp_path, karma.backbone.tokenizer)
    assert Spelling.load(tmp_path, reader).tokenizer is not None
    (tmp_path / TOKENIZER / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(RunError, match="no tokenizer can be read"):
        Spelling.load(tmp_path, reader)
    shutil.rmtree(tmp_path / TOKENIZER)
    with pytest.raises(RunError, match="no tokenizer can be read"):
        Spelling.load(tmp_path, reader)

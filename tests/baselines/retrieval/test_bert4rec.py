"""BERT4Rec: its blocks and scores against loops, what masks hide, what is masked, and what is served."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from penchant.baselines.retrieval.auxiliary import ClozeConfig, ClozeObjective
from penchant.baselines.retrieval.bert4rec import BERT4Rec, BERT4RecConfig
from penchant.data.batch import SequenceBatch
from penchant.errors import ConfigError
from penchant.layers import MLP, OpenBlock
from penchant.models import Sizes
from tests.checkerboard import requests_of

CONFIG = BERT4RecConfig(width=4, heads=2, blocks=1, max_len=6)


@pytest.fixture
def model() -> BERT4Rec:
    torch.manual_seed(1)
    model = BERT4Rec(CONFIG, Sizes(num_items=9)).eval()
    torch.nn.init.normal_(model.bias)
    return model


def norm(x: np.ndarray, layer: torch.nn.LayerNorm) -> np.ndarray:
    scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + layer.eps)
    return scaled * layer.weight.detach().numpy() + layer.bias.detach().numpy()


def linear(x: np.ndarray, layer: torch.nn.Module) -> np.ndarray:
    assert isinstance(layer, torch.nn.Linear)
    return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def gelu(x: np.ndarray) -> np.ndarray:
    return x * np.vectorize(lambda v: (1 + math.erf(v / math.sqrt(2))) / 2)(x)


def block_by_loops(block: OpenBlock, x: np.ndarray) -> np.ndarray:
    """One row without padding; every query looks at every key."""
    length, width = x.shape
    q, k, v = np.split(linear(norm(x, block.norm_attention), block.qkv), 3, axis=-1)
    size = width // block.heads
    mixed = np.zeros_like(x)
    for head in range(block.heads):
        part = slice(head * size, (head + 1) * size)
        for t in range(length):
            weights = np.array([math.exp(q[t, part] @ k[s, part] / math.sqrt(size)) for s in range(length)])
            mixed[t, part] = sum(w * v[s, part] for s, w in enumerate(weights / weights.sum()))
    x = x + linear(mixed, block.out)
    assert isinstance(block.mlp, MLP)
    inner, _, _, outer = block.mlp
    return x + linear(gelu(linear(norm(x, block.norm_mlp), inner)), outer)


@torch.no_grad()
def test_a_mask_is_filled_in_from_both_sides(model: BERT4Rec) -> None:
    sequence, place = [4, 7, 2, 9], 1
    x = model.items.weight[sequence].clone()
    x[place] = model.mask
    x = (x + model.positions.weight[:4]).numpy()
    block = model.blocks[0]
    assert isinstance(block, OpenBlock)
    state = norm(block_by_loops(block, x), model.norm)[place]
    guess = gelu(linear(state, model.head))
    expected = model.items.weight.numpy() @ guess + model.bias.numpy()
    masked = torch.arange(6) == place
    padded = torch.tensor([[*sequence, 0, 0]])
    found = model.filled_in(padded, masked[None], torch.tensor([4])) @ model.item_vectors().T
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_what_is_masked_is_not_read_and_what_is_not_is(model: BERT4Rec) -> None:
    masked = torch.tensor([[False, True, False]])
    vectors = [
        model.filled_in(torch.tensor([row]), masked, torch.tensor([3])) for row in ([1, 2, 3], [1, 9, 3], [1, 2, 4])
    ]
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.allclose(vectors[0], vectors[2])


@torch.no_grad()
def test_served_is_a_mask_after_the_last_action(model: BERT4Rec) -> None:
    history = [8, 1, 2, 3, 4, 5, 6]  # longer than max_len by one
    sequence = torch.tensor([[*history[1:], 0]])
    expected = model.filled_in(sequence, torch.arange(7)[None] == 6, torch.tensor([7]))
    torch.testing.assert_close(model.user_vectors(requests_of(history, [2]))[:1], expected)


@torch.no_grad()
def test_loss_is_the_mean_over_what_is_masked(model: BERT4Rec, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = SequenceBatch(torch.tensor([[1, 2, 3], [5, 0, 0]]), torch.tensor([[2, 3, 4], [6, 0, 0]]))
    sequence = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
    masked = torch.tensor([[True, False, True, False], [False, True, False, False]])
    objective = ClozeObjective(ClozeConfig(), torch.ones(10).long())
    monkeypatch.setattr(objective, "masks", lambda given: masked if torch.equal(given, sequence) else None)
    vectors = model.filled_in(sequence, masked, torch.tensor([4, 2]))
    logits = (vectors @ model.item_vectors()[1:].T).double().numpy()
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = -np.log([chances[0, 0], chances[1, 2], chances[2, 5]]).mean()
    assert float(objective(model, batch)["softmax"]) == pytest.approx(expected, rel=1e-5)


def test_masks_are_drawn_at_their_rate_and_each_piece_has_one() -> None:
    torch.manual_seed(0)
    sequence = torch.ones(4000, 12, dtype=torch.int64)
    sequence[::2, 8:] = 0
    masked = ClozeObjective(ClozeConfig(masked=0.3, newest_only=0.0), torch.ones(2).long()).masks(sequence)
    assert masked.any(1).all()
    assert not masked[sequence == 0].any()
    assert float(masked[1::2].float().mean()) == pytest.approx(0.3, abs=0.02)
    alone = ClozeObjective(ClozeConfig(masked=0.3, newest_only=1.0), torch.ones(2).long()).masks(sequence)
    assert alone.sum(1).tolist() == [1] * 4000
    assert alone[::2, 7].all()
    assert alone[1::2, 11].all()


def test_masks_follow_the_generator_and_nothing_else() -> None:
    objective = ClozeObjective(ClozeConfig(), torch.ones(2).long())
    sequence = torch.ones(5, 9, dtype=torch.int64)
    torch.manual_seed(3)
    first, second = objective.masks(sequence), objective.masks(sequence)
    torch.manual_seed(3)
    assert torch.equal(objective.masks(sequence), first)
    assert not torch.equal(first, second)


@torch.no_grad()
def test_open_blocks_see_both_sides_but_no_padding() -> None:
    torch.manual_seed(0)
    model = BERT4Rec(BERT4RecConfig(width=8), Sizes(num_items=5)).eval()
    block = model.blocks[0]
    assert isinstance(block, OpenBlock)
    x = torch.randn(2, 5, 8)
    lengths = torch.tensor([3, 5])
    out = block(x, lengths)
    torch.testing.assert_close(block(F.pad(x, (0, 0, 0, 2), value=7.0), lengths)[0, :3], out[0, :3])
    torch.testing.assert_close(block.last(x, lengths), out[[0, 1], lengths - 1])
    x[1, 4] = x[1, 4].flip(0)
    assert not torch.allclose(block(x, lengths)[1, 0], out[1, 0])


@pytest.mark.parametrize("config", [{"width": 0}, {"heads": 3}, {"dropout": 1.0}, {"max_len": 0}])
def test_impossible_sizes_are_refused(config: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(config))):
        BERT4RecConfig(**config)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("config", [{"masked": 1.1}, {"newest_only": -0.1}])
def test_impossible_shares_are_refused(config: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(config))):
        ClozeConfig(**config)  # pyright: ignore[reportArgumentType]

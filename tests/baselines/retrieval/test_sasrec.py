"""SASRec: a gated block against loops, and the served vector beside the one that is trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from penchant.baselines.retrieval.sasrec import SASRec, SASRecConfig
from penchant.layers import CausalBlock, SwiGLU
from penchant.models import Sizes
from tests.checkerboard import requests_of

ITEMS = 9


def made(gated: bool) -> SASRec:
    torch.manual_seed(0)
    config = SASRecConfig(width=4, heads=2, blocks=2, expansion=3, max_len=6, gated=gated)
    return SASRec(config, Sizes(num_items=ITEMS, num_categories=1)).eval()


def linear(x: np.ndarray, of: torch.nn.Module) -> np.ndarray:
    return x @ of.get_parameter("weight").detach().numpy().T + of.get_parameter("bias").detach().numpy()


def norm(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@torch.no_grad()
def test_a_gated_block_is_what_a_loop_makes_of_it() -> None:
    block = made(gated=True).blocks[0]
    assert isinstance(block, CausalBlock)
    assert isinstance(block.mlp, SwiGLU)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    q, k, v = np.split(linear(norm(x), block.qkv), 3, axis=-1)
    mixed = np.zeros_like(x)
    for head in (slice(0, 2), slice(2, 4)):
        for t in range(5):
            weights = np.exp(k[: t + 1, head] @ q[t, head] / np.sqrt(2))
            mixed[t, head] = weights @ v[: t + 1, head] / weights.sum()
    y = x + sigmoid(linear(x, block.gates[0])) * linear(mixed, block.out)
    gate, value = np.split(linear(norm(y), block.mlp.inner), 2, axis=-1)
    z = y + sigmoid(linear(y, block.gates[1])) * linear(gate * sigmoid(gate) * value, block.mlp.out)
    np.testing.assert_allclose(block(torch.from_numpy(x)[None])[0].numpy(), z, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("gated", [False, True])
def test_the_served_vector_is_the_last_trained_one(gated: bool) -> None:
    model = made(gated)
    histories = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 1], []]
    served = model.user_vectors(requests_of(*histories))
    for row, history in enumerate(histories[:-1]):
        trained = model.hidden(torch.tensor([history]))[0, -1]
        torch.testing.assert_close(served[row], trained, rtol=1e-5, atol=1e-6)
    assert not served[-1].any()


def test_only_a_gated_model_has_gates() -> None:
    names = {name for name, _ in made(gated=False).named_parameters()}
    assert not any("gates" in name for name in names)
    assert {"blocks.0.gates.0.weight", "blocks.1.mlp.inner.weight"} <= {n for n, _ in made(True).named_parameters()}

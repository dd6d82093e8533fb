"""Models that read a history as a whole: each equation against a loop, masks, seeds, and two interests told apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from penchant.baselines.retrieval.comirec import ComiRecDR, ComiRecDRConfig, ComiRecSA, ComiRecSAConfig, ages
from penchant.baselines.retrieval.interests import routed, squash
from penchant.baselines.retrieval.mind import MIND, MINDConfig
from penchant.baselines.retrieval.youtube_dnn import YouTubeDNN, YouTubeDNNConfig
from penchant.errors import ConfigError
from penchant.models import Sizes
from tests.checkerboard import requests_of

SIZES = Sizes(num_items=9)
HISTORY = [9, 1, 5, 2, 2, 7, 3]
MODELS: list[Any] = [
    (YouTubeDNN, YouTubeDNNConfig(width=8, tower=(12, 6), max_len=5)),
    (MIND, MINDConfig(width=8, interests=3, inner=12, max_len=5)),
    (ComiRecSA, ComiRecSAConfig(width=8, interests=3, inner=12, max_len=5)),
    (ComiRecDR, ComiRecDRConfig(width=8, interests=3, max_len=5)),
]
SEVERAL = MODELS[1:]


def made(cls: Any, config: Any, seed: int = 1) -> Any:
    torch.manual_seed(seed)
    return cls(config, SIZES).eval()


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def squashed(z: np.ndarray) -> np.ndarray:
    square = float((z**2).sum())
    return square / (1 + square) * z / np.sqrt(square)


def routed_by_loop(x: np.ndarray, maps: np.ndarray, logits: np.ndarray, rounds: int) -> np.ndarray:
    """MIND's Algorithm 1, ComiRec's Algorithm 1: x [S, D], maps [K, D, D], logits [S, K]."""
    b, capsules = logits.copy(), np.zeros((len(maps), x.shape[1]))
    for _ in range(rounds):
        w = np.array([softmax(row) for row in b])
        for k, mapped in enumerate(maps):
            capsules[k] = squashed(np.sum([w[i, k] * (mapped @ x[i]) for i in range(len(x))], axis=0))
        for i in range(len(x)):
            for k, mapped in enumerate(maps):
                b[i, k] += capsules[k] @ (mapped @ x[i])
    return capsules


def arrays(model: Any) -> dict[str, np.ndarray]:
    return {name: value.double().numpy() for name, value in model.state_dict().items()}


@torch.no_grad()
@pytest.mark.parametrize(("cls", "config"), MODELS)
def test_items_may_have_a_part_that_is_their_categorys(cls: Any, config: Any) -> None:
    """A model with categories is the one without whose item vectors are sums; padding stays zero."""
    plain, with_categories = (
        made(cls, config),
        cls(replace(config, categories=True), Sizes(num_items=9, num_categories=3)),
    )
    of = torch.tensor([0, 1, 2, 3, 1, 2, 3, 1, 0, 2])
    with_categories.items.item_category.copy_(of)
    own, shared = with_categories.items.own.weight, with_categories.items.of_category.weight
    plain.items.weight.copy_(torch.stack([own[i] + shared[c] for i, c in enumerate(of)]))
    rest = {name: value for name, value in plain.state_dict().items() if not name.startswith("items.")}
    with_categories.load_state_dict(rest, strict=False)
    requests = requests_of(HISTORY, [8])
    torch.testing.assert_close(with_categories.eval().item_vectors(), plain.item_vectors())
    vectors = "user_vectors" if cls is YouTubeDNN else "score_items"
    torch.testing.assert_close(getattr(with_categories, vectors)(requests), getattr(plain, vectors)(requests))
    assert not with_categories.embed_items(torch.tensor([0])).any()


@pytest.mark.parametrize(("cls", "config"), MODELS)
def test_categories_that_are_not_there_are_refused(cls: Any, config: Any) -> None:
    with pytest.raises(ConfigError, match="no item has one"):
        cls(replace(config, categories=True), SIZES)


@torch.no_grad()
def test_youtube_dnn_is_the_mean_through_a_tower_of_relus() -> None:
    model = made(*MODELS[0])
    p = arrays(model)
    h = np.mean([p["items.weight"][i] for i in HISTORY[-5:]], axis=0) * 8**0.5
    for place in (0, 3):
        h = np.maximum(p[f"tower.{place}.weight"] @ h + p[f"tower.{place}.bias"], 0)
    h = p["tower.6.weight"] @ h + p["tower.6.bias"]
    np.testing.assert_allclose(model.user_vectors(requests_of(HISTORY))[0].numpy(), h, rtol=1e-4, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("rounds", [1, 2, 4])
def test_routing_is_that_of_the_loop(rounds: int) -> None:
    rng = np.random.default_rng(0)
    x, maps, logits = rng.normal(size=(6, 4)), rng.normal(size=(3, 4, 4)), rng.normal(size=(6, 3))
    actions, matrices, first = (torch.from_numpy(a) for a in (x[None], maps, logits[None]))
    found = routed(actions, matrices, first, torch.ones(1, 3, dtype=torch.bool), rounds)[0]
    np.testing.assert_allclose(found.numpy(), routed_by_loop(x, maps, logits, rounds), rtol=1e-8)
    fewer = routed(actions, matrices, first, torch.tensor([[True, True, False]]), rounds)[0, :2]
    np.testing.assert_allclose(fewer.numpy(), routed_by_loop(x, maps[:2], logits[:, :2], rounds), rtol=1e-8)


def test_squash_keeps_directions_and_has_a_gradient_at_zero() -> None:
    z = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    out = squash(z)
    torch.testing.assert_close(out[0], z[0].detach() / 5 * 25 / 26)
    assert not out[1].any()
    out.sum().backward()
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


@torch.no_grad()
def test_mind_routes_by_one_map_from_the_kept_logits() -> None:
    model = made(*MODELS[1])
    p, latest = arrays(model), HISTORY[-5:]
    maps = np.stack([p["bilinear"]] * 2)
    capsules = routed_by_loop(p["items.weight"][latest], maps, p["first_logits"][:5, :2], 3) * 8**0.5
    inner = np.maximum(capsules @ p["head.0.weight"].T + p["head.0.bias"], 0)
    expected = inner @ p["head.2.weight"].T + p["head.2.bias"]
    vectors, real = model.interest_vectors(requests_of(HISTORY))
    assert real.tolist() == [[True, True, False]]  # log2 5, rounded down
    np.testing.assert_allclose(vectors[0, :2].numpy(), expected, rtol=1e-4, atol=1e-5)
    assert not vectors[0, 2].any()


@torch.no_grad()
def test_a_user_of_mind_has_as_many_interests_as_the_log_of_their_actions() -> None:
    model = MIND(MINDConfig(width=4, interests=4, max_len=40), SIZES).eval()
    lengths = [0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 40]
    expected = [max(1, min(4, int(np.log2(n)))) if n else 0 for n in lengths]
    _, real = model.interest_vectors(requests_of(*([1] * n for n in lengths)))
    assert real.sum(1).tolist() == expected == [0, 1, 1, 1, 2, 2, 3, 3, 4, 4, 4, 4]


def test_mind_draws_its_logits_anew_in_training_and_keeps_them_in_serving() -> None:
    config = MINDConfig(width=8, interests=3, inner=12, max_len=9, dropout=0.0)
    history = requests_of(HISTORY).history
    model = made(MIND, config)
    assert torch.equal(model.interests(history)[0], model.interests(history)[0])
    model.train()
    assert not torch.allclose(model.interests(history)[0], model.interests(history)[0])
    torch.manual_seed(5)
    once = model.interests(history)[0]
    torch.manual_seed(5)
    assert torch.equal(once, model.interests(history)[0])


@torch.no_grad()
def test_comirec_sa_is_attention_by_two_layers() -> None:
    model = made(*MODELS[2])
    p, latest = arrays(model), HISTORY[-5:]
    x = p["items.weight"][latest]
    aged = x + p["ages.weight"][[4, 3, 2, 1, 0]]
    logits = np.tanh(aged @ p["attention.0.weight"].T + p["attention.0.bias"]) @ p["attention.2.weight"].T
    logits += p["attention.2.bias"]
    expected = np.stack([softmax(logits[:, k]) @ x for k in range(3)]) * 8**0.5
    vectors, real = model.interest_vectors(requests_of(HISTORY))
    assert real.all()
    np.testing.assert_allclose(vectors[0].numpy(), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_comirec_dr_routes_by_a_map_an_interest_from_zero_logits() -> None:
    model = made(*MODELS[3])
    p = arrays(model)
    expected = routed_by_loop(p["items.weight"][HISTORY[-5:]], p["maps"], np.zeros((5, 3)), 3) * 8**0.5
    vectors, _ = model.interest_vectors(requests_of(HISTORY))
    np.testing.assert_allclose(vectors[0].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_ages_count_back_from_the_latest_action() -> None:
    real = requests_of([1, 2, 3], [4], padding=1).mask
    found = ages(real)
    assert found[0, :3].tolist() == [2, 1, 0]
    assert found[1, 0] == 0
    assert (found >= 0).all()


@torch.no_grad()
@pytest.mark.parametrize(("cls", "config"), SEVERAL)
def test_an_items_score_is_its_best_product(cls: Any, config: Any) -> None:
    model = made(cls, config)
    requests = requests_of(HISTORY, [4], [], [3, 3, 3, 3])
    vectors, real = model.interest_vectors(requests)
    scores = model.score_items(requests)
    assert torch.isneginf(scores[:, 0]).all()
    assert torch.isneginf(scores[2]).all()
    for row in (0, 1, 3):
        for item in range(1, 10):
            best = max(float(vectors[row, k] @ model.items.weight[item]) for k in range(3) if real[row, k])
            assert float(scores[row, item]) == pytest.approx(best, abs=1e-6)


@torch.no_grad()
@pytest.mark.parametrize(("cls", "config"), MODELS)
def test_padding_actions_too_old_and_other_users_change_nothing(cls: Any, config: Any) -> None:
    model = made(cls, config)
    alone, real = model.interests(requests_of(HISTORY[-5:]).history)
    padded, _ = model.interests(requests_of(HISTORY[-5:], [4], padding=0).history)
    torch.testing.assert_close(padded[:1], alone)
    short, _ = model.interests(requests_of([4, 8]).history)
    padded, real = model.interests(requests_of([4, 8], padding=3).history)
    torch.testing.assert_close(padded[real], short[real])
    served = model.user_vectors if cls is YouTubeDNN else lambda r: model.interest_vectors(r)[0]
    torch.testing.assert_close(served(requests_of(HISTORY)), served(requests_of([8, 8, *HISTORY], [1], padding=4))[:1])


@torch.no_grad()
@pytest.mark.parametrize(("cls", "config"), SEVERAL)
@pytest.mark.parametrize("padding", [0, 4])
def test_without_actions_there_is_no_interest(cls: Any, config: Any, padding: int) -> None:
    vectors, real = made(cls, config).interest_vectors(requests_of([], [], padding=padding))
    assert vectors.shape == (2, 3, 8)
    assert not vectors.any()
    assert not real.any()


@torch.no_grad()
@pytest.mark.parametrize(("cls", "config"), SEVERAL)
def test_more_interests_than_actions_are_no_harm(cls: Any, config: Any) -> None:
    scores = made(cls, config).score_items(requests_of([4], [4, 6]))
    assert torch.isfinite(scores[:, 1:]).all()


@pytest.mark.parametrize(("cls", "config"), MODELS)
def test_gradients_reach_every_weight_and_no_padding(cls: Any, config: Any) -> None:
    model = made(cls, config).train()
    vectors, real = model.interests(requests_of(HISTORY[-5:], [4, 6]).history)
    (vectors[real] @ model.item_vectors()[1:].T).exp().sum().log().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert not model.items.weight.grad[0].any()


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (YouTubeDNNConfig, "tower", (0,)),
        (YouTubeDNNConfig, "max_len", 0),
        (MINDConfig, "iterations", 0),
        (MINDConfig, "dropout", 1.0),
        (ComiRecSAConfig, "interests", 0),
        (ComiRecDRConfig, "width", 0),
    ],
)
def test_impossible_sizes_are_refused(config: Any, field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=field):
        config(**{field: value})

"""The causal T2Diff: what it learns at every position, what it never sees, and that it begins as SASRec."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from penchant.data.batch import SequenceBatch
from penchant.errors import ConfigError
from penchant.models import Sizes
from penchant.papers.t2diff.auxiliary import CausalT2DiffObjective, CausalT2DiffObjectiveConfig
from penchant.papers.t2diff.causal import CausalT2Diff, CausalT2DiffConfig, CausalT2DiffUnion, PositionNetwork
from tests.checkerboard import requests_of

ITEMS, WIDE = 12, 5
COUNTS = torch.ones(ITEMS + 1, dtype=torch.int64)
BATCH = SequenceBatch(torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]]), torch.tensor([[2, 3, 4, 5], [6, 7, 0, 0]]))


def made(**changes: Any) -> CausalT2Diff:
    torch.manual_seed(0)
    config = CausalT2DiffConfig(**{"width": 8, "dropout": 0.0, "max_len": 6, "steps": 6, "ddim_steps": 3, **changes})
    if config.reads_content:
        config = replace(config, content_width=WIDE)
    model = CausalT2Diff(config, Sizes(num_items=ITEMS, num_categories=1))
    if config.reads_content:
        model.content.copy_(torch.randn(ITEMS + 1, WIDE) * (torch.arange(ITEMS + 1) > 0)[:, None])
    return model


def stir(model: CausalT2Diff) -> CausalT2Diff:
    """Weights of the answer that are not zero any more."""
    if model.answer is not None:
        torch.nn.init.normal_(model.answer[-1].get_parameter("weight"), std=0.3)
    return model.eval()


WAYS = [
    {},
    {"guess": "ddim"},
    {"guess": "chain"},
    {"guess": "none"},
    {"guess": "last"},
    {"guess": "regressed"},
    {"samples": 3},
    {"drift": False},
    {"latent": "slow"},
    {"latent": "content"},
    {"item_content": True},
    {"latent": "content", "item_content": True},
    {"guidance": 1.5},
]


@torch.no_grad()
@pytest.mark.parametrize("changes", WAYS)
def test_the_same_request_gets_the_same_vector_in_any_company(changes: dict[str, Any]) -> None:
    model = stir(made(**changes))
    together = model.user_vectors(requests_of([1, 2, 3], [4], [], [5, 6, 7, 8, 9, 10, 11], padding=2))
    assert not together[2].any()
    for row, history in ((0, [1, 2, 3]), (1, [4]), (3, [6, 7, 8, 9, 10, 11])):
        alone = model.user_vectors(requests_of(history))
        torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-5)
    assert model.user_vectors(requests_of([], [])).abs().sum() == 0


@torch.no_grad()
@pytest.mark.parametrize("changes", WAYS)
def test_it_begins_as_sasrec(changes: dict[str, Any]) -> None:
    """The last layer of what reads the guess is zero."""
    model = made(**changes).eval()
    states = model.states(BATCH.history)
    torch.testing.assert_close(model.hidden(BATCH.history), states)
    served = model.user_vectors(requests_of([1, 2, 3, 4]))
    torch.testing.assert_close(served[0], states[0, 3], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_union_scores_by_the_best_of_its_guesses() -> None:
    """By a loop over guesses and items; it learns with the first guess alone."""
    torch.manual_seed(0)
    config = CausalT2DiffConfig(width=8, dropout=0.0, max_len=6, steps=6, samples=3, union=True)
    union = CausalT2DiffUnion(config, Sizes(num_items=ITEMS, num_categories=1))
    stir(union)
    requests = requests_of([1, 2, 3], [], [4])
    vectors, real = union.interest_vectors(requests)
    assert vectors.shape == (3, 3, 8)
    assert real.all(1).tolist() == [True, False, True]
    assert not torch.allclose(vectors[0, 0], vectors[0, 1])
    assert not vectors[1].any()
    torch.testing.assert_close(union.user_vectors(requests), vectors[:, 0])
    items, scores = union.item_vectors(), union.score_items(requests)
    for row in (0, 2):
        for item in range(1, ITEMS + 1):
            best = max(float(v @ items[item]) for v in vectors[row])
            assert float(scores[row, item]) == pytest.approx(best, abs=1e-5)
    assert torch.isneginf(scores[1]).all()
    assert torch.isneginf(scores[:, 0]).all()


@torch.no_grad()
def test_neither_a_position_nor_its_guess_sees_what_comes_later() -> None:
    model = stir(made(guess="ddim"))
    ways = [model.hidden(torch.tensor([[1, 2, 3, last]])) for last in (4, 9)]
    torch.testing.assert_close(ways[0][:, :3], ways[1][:, :3])
    assert not torch.allclose(ways[0][:, 3], ways[1][:, 3])
    torch.testing.assert_close(model.user_vectors(requests_of([1, 2, 3, 4])), ways[0][:, 3], rtol=1e-4, atol=1e-5)


def test_the_guess_is_not_made_from_the_target() -> None:
    """Other targets change the diffusion's loss and the softmax's labels, and no user's vector."""
    model = stir(made())
    seen: list[torch.Tensor] = []
    answered = model.answered
    model.answered = lambda h, guess: seen.append(guess) or answered(h, guess)  # type: ignore[method-assign]
    objective = CausalT2DiffObjective(CausalT2DiffObjectiveConfig(), COUNTS)
    losses = []
    for targets in (BATCH.targets, (BATCH.targets * 5) % 12 + (BATCH.targets > 0)):
        torch.manual_seed(3)
        losses.append(objective(model, SequenceBatch(BATCH.history, targets))["kl"])
    torch.testing.assert_close(seen[0], seen[1])
    assert not torch.allclose(losses[0], losses[1])


@torch.no_grad()
def test_the_last_item_may_stand_where_the_guess_does() -> None:
    model = stir(made(guess="last"))
    h, last = model.states(BATCH.history), model.latents(BATCH.history)
    torch.testing.assert_close(model.hidden(BATCH.history), model.answered(h, last))
    assert not torch.allclose(model.hidden(BATCH.history), model.answered(h, torch.zeros_like(last)))


def test_a_regressed_guess_knows_no_noise() -> None:
    """Neither while it learns nor when it serves."""
    guesses, losses = [], []
    for seed in (0, 1):
        model = stir(made(guess="regressed", noise_seed=seed))
        torch.manual_seed(seed)
        objective = CausalT2DiffObjective(CausalT2DiffObjectiveConfig(), COUNTS)
        losses.append(objective(model, BATCH)["kl"])
        guesses.append(model.user_vectors(requests_of([1, 2, 3])))
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(guesses[0], guesses[1])


@pytest.mark.parametrize(
    ("changes", "teaches_h", "teaches_diffusion"),
    [({}, False, False), ({"detach_in": False}, True, False), ({"detach_out": False}, False, True)],
)
def test_each_loss_teaches_what_it_is_allowed_to(
    changes: dict[str, Any], teaches_h: bool, teaches_diffusion: bool
) -> None:
    model = stir(made()).train()
    terms = CausalT2DiffObjective(CausalT2DiffObjectiveConfig(**changes), COUNTS)(model, BATCH)
    parts = {"h": list(model.blocks.parameters()), "items": [model.items.weight]}
    assert model.diffusion is not None
    parts["diffusion"] = list(model.diffusion.network.parameters())

    def taught(term: str) -> set[str]:
        out = set()
        for name, parameters in parts.items():
            found = torch.autograd.grad(terms[term], parameters, retain_graph=True, allow_unused=True)
            if any(g is not None and bool(g.abs().sum() > 0) for g in found):
                out.add(name)
        return out

    assert taught("softmax") == {"h", "items"} | ({"diffusion"} if teaches_diffusion else set())
    # What h_t reads is the items' table: whoever teaches h_t teaches it through the history, never as a latent.
    assert taught("kl") == {"diffusion"} | ({"h", "items"} if teaches_h else set())


def test_a_planted_successor_is_learned_and_told_by_the_guess() -> None:
    model = made(width=16, latent="content", item_content=True)
    objective = CausalT2DiffObjective(CausalT2DiffObjectiveConfig(detach_in=False), COUNTS)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.train()
    kl: list[float] = []
    for _ in range(200):
        start = torch.randint(0, ITEMS, (32, 1))
        walk = (start + torch.arange(6)) % ITEMS + 1
        terms = objective(model, SequenceBatch(walk[:, :-1], walk[:, 1:]))
        kl.append(float(terms["kl"].detach()))
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    assert kl[-1] < 0.5 * kl[0]
    model.eval()
    requests = requests_of([1, 2, 3], [5], [11, 12])
    scores = model.user_vectors(requests) @ model.item_vectors().T
    assert scores[:, 1:].argmax(1).tolist() == [3, 5, 0]


def test_every_guess_is_guided_and_what_the_diffusion_learns_is_not() -> None:
    torch.manual_seed(0)
    model = made(guidance=2.0)
    assert model.diffusion is not None
    network = model.diffusion.network
    assert isinstance(network, PositionNetwork)
    assert network.nothing is not None
    torch.nn.init.normal_(network.nothing)
    z, h, r, real = torch.randn(2, 3, 8), torch.randn(2, 3, 8), torch.tensor([1, 4]), torch.ones(2, 3).bool()
    nothing = network.nothing.expand_as(h)
    for training in (True, False):
        network.train(training)
        with_h = network.plain(torch.cat([z, h], dim=-1), r, real)
        without = network.plain(torch.cat([z, nothing], dim=-1), r, real)
        guided = network(torch.cat([z, h], dim=-1), r, real)
        torch.testing.assert_close(guided, 3 * with_h - 2 * without, rtol=1e-4, atol=1e-5)
    far = network.withheld(torch.zeros(400, 5, 8) + 7.0)
    gone = (far == network.nothing).all(2)
    assert ((far == 7.0).all(2) | gone).all()
    assert float(gone.float().mean()) == pytest.approx(0.1, abs=0.03)
    CausalT2DiffObjective(CausalT2DiffObjectiveConfig(), COUNTS)(model, BATCH)["kl"].backward()
    assert network.nothing.grad is not None


def test_the_latents_size_is_followed() -> None:
    model = made(latent="content").train()
    model.content.mul_(7.0)
    objective = CausalT2DiffObjective(CausalT2DiffObjectiveConfig(), COUNTS)
    for _ in range(700):
        objective._follow(model, BATCH)
    size = np.sqrt(float(model.latents(BATCH.targets[BATCH.mask]).square().mean()))
    assert size == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ddim_steps": 9}, "ddim_steps is 9"),
        ({"samples": 0}, "samples is 0"),
        ({"guidance": -1.0}, "guidance is -1"),
        ({"width": 0}, "width is 0"),
        ({"steps": 1}, "steps is 1"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made(**changes)


def test_content_that_is_not_there_is_refused() -> None:
    config = CausalT2DiffConfig(latent="content")
    with pytest.raises(ConfigError, match="penchant encode"):
        CausalT2Diff(config, Sizes(num_items=ITEMS, num_categories=1))
    with pytest.raises(ConfigError, match="kl is -1"):
        CausalT2DiffObjectiveConfig(kl=-1.0)

"""Noising, L_KL and its weights against loops; who moves whom; and the literal leak."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from penchant.data.prefix_batch import PrefixDataConfig
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.errors import ConfigError
from penchant.papers.t2diff import objective
from penchant.papers.t2diff.model import T2Diff
from penchant.papers.t2diff.objective import (
    T2DiffObjective,
    T2DiffObjectiveConfig,
    drift_distance,
    kl_weights,
    noised,
    unknown,
)
from penchant.papers.t2diff.samples import SampleBatch, SampleBatches
from tests.checkerboard import requests_of
from tests.papers.t2diff.test_t2diff import NUM_ITEMS, model_of

BATCH = SampleBatch(requests_of([1, 3, 5, 7, 9], [2, 4], [8]), torch.tensor([11, 6, 10]))


def objective_of(**changes: Any) -> T2DiffObjective:
    return T2DiffObjective(T2DiffObjectiveConfig(**changes), torch.ones(NUM_ITEMS + 1, dtype=torch.int64))


def diffusion_of(model: T2Diff) -> Any:
    assert model.diffusion is not None
    return model.diffusion


def test_noising_is_equation_14_as_a_loop() -> None:
    diffusion = diffusion_of(model_of())
    z_0, noise = torch.randn(2, 3, 4, 8).unbind()
    r = torch.tensor([1, 4, 6])
    told = noised(diffusion, z_0, r, noise).numpy()
    for row, step in enumerate(r.tolist()):
        left = math.prod(1 - float(beta) for beta in diffusion.betas[1 : step + 1])
        for place in range(4):
            expected = math.sqrt(left) * z_0[row, place].numpy() + math.sqrt(1 - left) * noise[row, place].numpy()
            np.testing.assert_allclose(told[row, place], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("drift", [True, False])
def test_the_guess_from_the_true_drift_is_the_target(drift: bool) -> None:
    model = model_of(drift=drift)
    model.scale.fill_(0.3)
    past, following = model.past(BATCH.requests), model.items(BATCH.targets)
    z_0 = unknown(model, past.x, following)
    torch.testing.assert_close(model.restored(z_0, past.x), following)
    for row, items in enumerate(([1, 3, 5, 7, 9, 11], [2, 4, 6], [8, 10])):
        vectors = [model.items(torch.tensor(item)) for item in items]
        for place in range(1, len(vectors)):
            expected = (vectors[place] - (vectors[place - 1] if drift else 0)) / 0.3
            torch.testing.assert_close(z_0[row, place - len(vectors)], expected)


@pytest.mark.parametrize("kind", ["simple", "mu", "vlb"])
def test_weights_are_those_of_the_posteriors_means(kind: Any) -> None:
    diffusion = diffusion_of(model_of())
    weights = kl_weights(diffusion, T2DiffObjectiveConfig(kl_weight=kind)).numpy()
    z, one, other = torch.randn(3, 1, 1, 8).unbind()
    assert weights[0] == 0
    for r in range(1, 7):
        means = [diffusion.posterior(z, z_0, r)[0] for z_0 in (one, other)]
        variance = float(diffusion.posterior(z, one, max(r, 2))[1])
        apart = float((means[0] - means[1]).square().sum() / (one - other).square().sum())
        expected = {"simple": 1.0, "mu": apart, "vlb": apart / (2 * variance)}[kind]
        assert weights[r] == pytest.approx(expected, rel=1e-3)


def test_the_literal_weights_train_the_first_steps_almost_alone() -> None:
    diffusion = diffusion_of(model_of(steps=50))
    weights = kl_weights(diffusion, T2DiffObjectiveConfig(kl_weight="mu"))
    told = weights[[1, 2, 5, 10, 25, 50]]
    torch.testing.assert_close(told, torch.tensor([1, 0.28, 0.06, 0.03, 0.016, 0.004]), atol=5e-3, rtol=0.05)


@pytest.mark.parametrize("positions", ["all", "last", "last_weighted"])
def test_distances_are_means_over_real_positions_as_a_loop(positions: Any) -> None:
    told, z_0 = torch.randn(2, 3, 4, 8).unbind()
    lengths, weights = [4, 2, 1], [1.0, 0.5, 2.0]
    real = torch.arange(4) >= 4 - torch.tensor(lengths)[:, None]
    last, others = [], []
    for row, length in enumerate(lengths):
        for place in range(4 - length, 4):
            error = float((told[row, place] - z_0[row, place]).square().mean()) * weights[row]
            (last if place == 3 else others).append(error)
    expected = {
        "all": np.mean(last + others),
        "last": np.mean(last),
        "last_weighted": (np.mean(last) + np.mean(others)) / 2,
    }[positions]
    assert float(drift_distance(told, z_0, real, torch.tensor(weights), positions)) == pytest.approx(expected, rel=1e-5)


def moved(loss: Callable[[dict[str, Tensor]], Tensor], **changes: Any) -> dict[str, bool]:
    """Which parts of a model a loss moves."""
    model = model_of()
    loss(objective_of(**changes)(model, BATCH)).backward()
    return {
        "items": model.items.weight.grad is not None and bool(model.items.weight.grad.any()),
        "diffusion": any(p.grad is not None and bool(p.grad.any()) for p in diffusion_of(model).parameters()),
        "tower": any(p.grad is not None and bool(p.grad.any()) for p in model.user.parameters()),
    }


@pytest.mark.parametrize("train_xhat", ["served", "onestep_r"])
def test_each_loss_moves_its_own_part_and_no_other(train_xhat: Any) -> None:
    apart = {"train_xhat": train_xhat}
    kl, softmax = (lambda terms: terms["kl"]), (lambda terms: terms["softmax"])
    assert moved(kl, **apart) == {"items": False, "diffusion": True, "tower": False}
    assert moved(softmax, **apart) == {"items": True, "diffusion": False, "tower": True}
    assert moved(kl, detach_in=False, **apart)["items"]
    assert moved(softmax, detach_out=False, **apart)["diffusion"]


def test_terms_sum_to_equation_25() -> None:
    model = model_of()
    torch.manual_seed(3)
    one = objective_of()(model, BATCH)
    torch.manual_seed(3)
    ten = objective_of(kl=10.0)(model, BATCH)
    torch.testing.assert_close(ten["kl"], 10 * one["kl"])
    torch.testing.assert_close(ten["softmax"], one["softmax"])
    assert set(one) == {"softmax", "kl"}
    assert set(objective_of()(model_of(xhat="zero"), BATCH)) == {"softmax"}


def test_the_towers_loss_is_equation_24_as_a_loop() -> None:
    model = model_of(xhat="zero")
    term = float(objective_of()(model, BATCH)["softmax"].detach())
    with torch.no_grad():
        users, items = model.user_vectors(BATCH.requests).numpy(), model.item_vectors().numpy()
    losses = []
    for user, target in zip(users, BATCH.targets.tolist(), strict=True):
        mass = sum(math.exp(float(user @ items[m])) for m in range(1, NUM_ITEMS + 1))
        losses.append(math.log(mass) - float(user @ items[target]))
    assert term == pytest.approx(np.mean(losses), rel=1e-4)


class Heard(T2Diff):
    """Keeps the guess that the tower is handed."""

    heard: Tensor

    def tower(self, past: Any, xhat: Any) -> Any:
        self.heard = xhat.detach()
        return super().tower(past, xhat)


def guess_in_training(target: int, xhat: Any, train_xhat: Any) -> Tensor:
    """What the tower learns with; the random numbers are the same whatever the target."""
    model = model_of(xhat=xhat)
    model.__class__ = Heard
    torch.manual_seed(7)
    batch = replace(BATCH, targets=torch.full((3,), target))
    objective_of(train_xhat=train_xhat)(model, batch)
    assert isinstance(model, Heard)
    return model.heard


def test_the_literal_guess_sees_the_target() -> None:
    assert not torch.allclose(guess_in_training(11, "chain", "onestep_r"), guess_in_training(2, "chain", "onestep_r"))


@pytest.mark.parametrize("xhat", ["onestep", "ddim", "chain", "zero", "last"])
def test_a_guess_made_as_when_serving_does_not_move_when_the_target_does(xhat: Any) -> None:
    assert torch.equal(guess_in_training(11, xhat, "served"), guess_in_training(2, xhat, "served"))


def test_a_perfect_denoiser_hands_the_target_itself_to_the_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(xhat="chain")
    past, following = model.past(BATCH.requests), model.items(BATCH.targets)
    truth = unknown(model, past.x, following)
    monkeypatch.setattr(diffusion_of(model), "estimate", lambda z, r, x, real: truth)
    model.__class__ = Heard
    objective_of(train_xhat="onestep_r")(model, BATCH)
    assert isinstance(model, Heard)
    torch.testing.assert_close(model.heard, following.detach())


def test_the_scale_follows_the_items_while_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "SCALE_SHARE", 0.5)
    model = model_of()
    before = float(model.scale)
    objective_of()(model, BATCH)
    assert float(model.scale) == before
    model.train()
    with torch.no_grad():
        model.items.weight.mul_(10)
    for _ in range(12):
        objective_of()(model, BATCH)
    x = model.past(BATCH.requests).x
    assert float(model.scale) == pytest.approx(float(x[x.any(2)].square().mean().sqrt().detach()), rel=0.02)
    plain = model_of(latent_scale=False).train()
    objective_of()(plain, BATCH)
    assert float(plain.scale) == 1


def test_a_large_catalogue_is_sampled() -> None:
    terms = objective_of(full_up_to_items=5, num_sampled=4)(model_of(), BATCH)
    assert set(terms) == {"sampled_softmax", "kl"}
    assert all(torch.isfinite(term) for term in terms.values())


def test_what_is_learned_together_is_learned() -> None:
    model = model_of().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    torch.manual_seed(0)
    first = last = {}
    for step in range(60):
        terms = objective_of()(model, BATCH)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        last = {name: float(term.detach()) for name, term in terms.items()}
        first = first if step else last
    assert last["softmax"] < first["softmax"] / 2
    assert last["kl"] < first["kl"]
    with torch.no_grad():
        best = (model.eval().user_vectors(BATCH.requests) @ model.item_vectors()[1:].T).argmax(1) + 1
    assert best.tolist() == BATCH.targets.tolist()


def test_negative_weight_is_refused() -> None:
    with pytest.raises(ConfigError, match="kl is -1"):
        T2DiffObjectiveConfig(kl=-1.0)


def test_samples_are_requests_at_their_targets_times(store: Store) -> None:
    split = load_split(store, "temporal-successive")
    batches = SampleBatches(store, split, PrefixDataConfig(max_len=5, batch_targets=40), seed=1)
    batch = batches.batch(3).to(torch.device("cpu"))
    assert batches.epochs == pytest.approx(4 / batches.steps_per_epoch)
    assert batch.num_targets == len(batch.requests)
    for row, target in enumerate(batch.targets.tolist()):
        user, length = int(batch.requests.users[row]), int(batch.requests.lengths[row])
        items, times = (batch.requests.history[row, :length], batch.requests.history_times_ms[row, :length])
        events = range(*(int(x) for x in store.user_indptr[user : user + 2]))
        found = [
            at
            for at in events
            if store.event_item[at] == target
            and store.event_ts_ms[at] == int(batch.requests.times_ms[row])
            and store.event_item[max(events[0], at - 5) : at].tolist() == items.tolist()
            and store.event_ts_ms[max(events[0], at - 5) : at].tolist() == times.tolist()
        ]
        assert found, "a target comes after what preceded it, at its own time"
        assert min(found) < split.stops("train")[user]
    again = SampleBatches(store, split, PrefixDataConfig(max_len=5, batch_targets=40), seed=1).batch(3)
    assert torch.equal(again.requests.history, batch.requests.history)
    assert torch.equal(again.targets, batch.targets)

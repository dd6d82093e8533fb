"""Eq. 1 to 3 and PGIN's loss against loops; what is a negative, and what leaks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penchant.data.category_batch import CategoryBatch, CategoryBatches, CategoryDataConfig, TargetBatch
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.errors import ConfigError
from penchant.models import Sizes
from penchant.papers.ulim.categories import Prediction
from penchant.papers.ulim.model import ULIM, ULIMConfig
from penchant.papers.ulim.objective import (
    EPSILON,
    PGINObjective,
    ULIMObjective,
    ULIMObjectiveConfig,
    pgin_losses,
    read,
)
from tests.papers.ulim.made import CATEGORY, NUM_ITEMS, histories, made

COUNTS = torch.tensor([0, *(1 + i % 7 for i in range(NUM_ITEMS))])


def batch_of(category: int, rows: int = 5, negatives: int = 3, seed: int = 0) -> CategoryBatch:
    """A batch of a category, 0 = of any, whose every other row has an empty subsequence."""
    rng = np.random.default_rng(seed)
    catalogue = np.array([i for i in range(1, NUM_ITEMS + 1) if not category or CATEGORY[i] == category])
    targets = torch.from_numpy(rng.choice(catalogue, rows))
    subsequence = torch.zeros(rows, 3).long()
    for row in range(0, rows, 2):
        own = [i for i in range(1, NUM_ITEMS + 1) if CATEGORY[i] == CATEGORY[targets[row]]]
        subsequence[row, :2] = torch.from_numpy(rng.choice(own, 2))
    requests = histories([3] * rows, seed)
    times = (requests.history_times_ms[:, :1] - 10**6) * (subsequence > 0)
    drawn = torch.from_numpy(rng.permutation(catalogue)[:negatives])
    return CategoryBatch(requests, subsequence, times, targets, CATEGORY[targets], drawn, category)


def objective(**changes: Any) -> ULIMObjective:
    return ULIMObjective(ULIMObjectiveConfig(**{"corpus_negatives": NUM_ITEMS, **changes}), COUNTS, CATEGORY)


@torch.no_grad()
def by_loop(
    model: ULIM, batch: CategoryBatch, vectors: torch.Tensor, rows: list[int], log_q: bool, whole: bool
) -> float:
    """Mean cross-entropy of some rows, a negative's logit lowered by the log of its probability to be there."""
    items = model.item_vectors()
    inside = sorted({*batch.targets.tolist(), *batch.negatives.tolist()})
    among = range(1, NUM_ITEMS + 1) if whole else inside
    catalogue = [i for i in range(1, NUM_ITEMS + 1) if not batch.category or CATEGORY[i] == batch.category]
    losses = []
    for row in rows:
        target, logits = int(batch.targets[row]), {}
        for item in among:
            logit = float(vectors[row] @ items[item])
            if log_q and item != target and not whole:
                share = float(COUNTS[item]) / sum(float(COUNTS[i]) for i in catalogue)
                absent = (1 - len(batch.negatives) / len(catalogue)) * math.exp(-len(batch.targets) * share)
                logit -= math.log(1 - absent)
            logits[item] = logit
        losses.append(math.log(sum(math.exp(v) for v in logits.values())) - logits[target])
    return sum(losses) / len(losses)


@pytest.mark.parametrize("category", [0, 2, 5])
@pytest.mark.parametrize("log_q", [True, False])
@pytest.mark.parametrize("empty", ["masked", "learned"])
def test_eq_1_to_3(category: int, log_q: bool, empty: Any) -> None:
    model, batch = made(), batch_of(category)
    told = objective(alpha=0.7, beta=0.4, log_q=log_q, empty=empty, short_negatives="category")
    terms = told(model, batch)
    pooled, long, _ = read(model, batch)
    rows = [0, 2, 4] if empty == "masked" else [0, 1, 2, 3, 4]
    expected = 0.7 * by_loop(model, batch, long, rows, log_q, whole=False)
    assert float(terms["long"].detach()) == pytest.approx(expected, rel=1e-4)
    short = model.short_vectors(pooled)
    expected = 0.4 * by_loop(model, batch, short, [0, 1, 2, 3, 4], log_q, whole=False)
    assert float(terms["short"].detach()) == pytest.approx(expected, rel=1e-4)


def test_the_short_vector_learns_among_the_whole_catalogue() -> None:
    model, batch = made(), batch_of(5)
    pooled, _, _ = read(model, batch)
    expected = by_loop(model, batch, model.short_vectors(pooled), [0, 1, 2, 3, 4], True, whole=True)
    assert float(objective()(model, batch)["short"].detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("category", [0, 2])
def test_sampled_corpus_negatives_estimate_the_whole_catalogue(category: int) -> None:
    """With the correction, the mean over many batches of the sum of exponentials is the whole catalogue's."""
    told, rng = objective(corpus_negatives=10), np.random.default_rng(0)
    among = np.array([i for i in range(1, NUM_ITEMS + 1) if not category or CATEGORY[i] == category])
    share = COUNTS[among].numpy() / COUNTS[among].sum().item()
    total = torch.zeros(NUM_ITEMS + 1)
    torch.manual_seed(0)
    for _ in range(6000):
        targets, negatives = rng.choice(among, 3, p=share), rng.choice(among, 2, replace=False)
        batch = replace(
            batch_of(category, rows=3), targets=torch.from_numpy(targets), negatives=torch.from_numpy(negatives)
        )
        both, missed = told.with_corpus(told.candidates(batch), batch)
        total[both] += torch.exp(-told._log_inclusion(missed, total))
    torch.testing.assert_close(total[1:] / 6000, torch.ones(NUM_ITEMS), rtol=0.12, atol=0)


@settings(deadline=None, max_examples=25)
@given(
    category=st.sampled_from([1, 2, 5]), rows=st.integers(1, 9), negatives=st.integers(0, 5), seed=st.integers(0, 99)
)
def test_candidates_share_the_targets_category_and_come_once(
    category: int, rows: int, negatives: int, seed: int
) -> None:
    batch = batch_of(category, rows, negatives, seed)
    items = objective().candidates(batch)
    absent = objective().absent(items, batch)
    assert items.tolist() == sorted({*batch.targets.tolist(), *batch.negatives.tolist()})
    assert set(CATEGORY[items].tolist()) == {category}
    assert bool((absent >= 0).all())
    assert bool((absent < 1).all())


def test_the_whole_category_as_negatives_needs_no_correction() -> None:
    batch = batch_of(2, negatives=100)
    assert not objective().absent(objective().candidates(batch), batch).any()


def test_a_batch_of_empty_subsequences_has_no_long_loss_and_a_gradient_of_zero() -> None:
    model, batch = made(), batch_of(2)
    nothing = torch.zeros_like(batch.subsequence)
    batch = CategoryBatch(
        batch.requests, nothing, nothing, batch.targets, batch.categories, batch.negatives, batch.category
    )
    terms = objective()(model, batch)
    assert float(terms["long"].detach()) == 0.0
    terms["long"].backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    objective(empty="learned")(model, batch)["long"].backward()
    assert model.null.grad is not None
    assert model.null.grad.any()


def test_a_weight_of_zero_leaves_its_loss_out() -> None:
    model, batch = made(), batch_of(2)
    assert set(objective(alpha=0.0)(model, batch)) == {"short"}
    assert set(objective(beta=0.0)(model, batch)) == {"long"}
    refused: list[dict[str, Any]] = [{"alpha": 0.0, "beta": 0.0}, {"alpha": -1.0}, {"corpus_negatives": 0}]
    for impossible in refused:
        with pytest.raises(ConfigError):
            ULIMObjectiveConfig(**impossible)


def test_pgins_loss_is_the_cross_entropy_of_the_mixture() -> None:
    probs = torch.tensor([[0.0, 0.7, 0.3], [0.0, 1.0, 0.0]])
    prediction = Prediction(probs, probs, probs, torch.ones(2))
    expected = -(math.log(0.3 + EPSILON) + math.log(EPSILON)) / 2
    assert float(pgin_losses(prediction, torch.tensor([2, 2])).mean()) == pytest.approx(expected, rel=1e-5)
    model, requests = made().pgin, histories([4, 9])
    told = PGINObjective()(model, TargetBatch(requests, torch.tensor([1, 5])))
    assert set(told) == {"category"}
    chosen = model(requests).probs[[0, 1], [1, 5]]
    assert float(told["category"].detach()) == pytest.approx(float(-chosen.log().mean().detach()), rel=1e-5)


def test_both_losses_fall(store: Store) -> None:
    split = load_split(store, "temporal-successive")
    category = torch.from_numpy(store.item_category.astype(np.int64))
    torch.manual_seed(0)
    config = ULIMConfig(width=16, inner=16, dropout=0.0, short_len=4)
    model = ULIM(config, Sizes(num_items=store.num_items, num_categories=store.num_categories))
    model.set_categories(category)
    told = ULIMObjective(ULIMObjectiveConfig(), torch.from_numpy(split.item_counts(store)), category)
    batches = CategoryBatches(store, split, CategoryDataConfig(batch=32), config, seed=0)
    optimizer = torch.optim.Adam([p for n, p in model.named_parameters() if not n.startswith("pgin.")], lr=1e-2)
    losses = []
    for step in range(60):
        terms = told(model, batches.batch(step))
        losses.append([float(v.detach()) for v in terms.values()])
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    first, last = np.mean(losses[:15], axis=0), np.mean(losses[-15:], axis=0)
    assert (last < 0.9 * first).all()

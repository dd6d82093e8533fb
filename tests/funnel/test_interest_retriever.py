"""Lists from several interests: the greedy choice against a loop over the objective, and none of it where it is 0."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penchant.baselines.retrieval.comirec import ComiRecSA, ComiRecSAConfig
from penchant.funnel import retrieve
from penchant.funnel.retrieve import InterestRetriever, ScoreRetriever, diversified
from penchant.models import Sizes
from tests.checkerboard import requests_of

NUM_ITEMS = 15
CATEGORY = torch.tensor([0, *(1 + (i // 5) for i in range(NUM_ITEMS))])
HISTORIES = ([1, 3, 12], [2], [], [4, 8, 6, 6], [9])


def model_of(seed: int) -> ComiRecSA:
    torch.manual_seed(seed)
    return ComiRecSA(ComiRecSAConfig(width=6, interests=3, inner=8), Sizes(num_items=NUM_ITEMS)).eval()


def objective(scores: np.ndarray, categories: np.ndarray, chosen: list[int], diversity: float) -> float:
    """Q(u, S) of ComiRec, each pair counted once: a factor 2 lies in lambda."""
    pairs = sum(categories[a] != categories[b] for n, a in enumerate(chosen) for b in chosen[:n])
    return float(scores[chosen].sum()) + diversity * pairs


@given(st.integers(0, 99), st.integers(1, 8), st.sampled_from([0.0, 0.3, 2.0]))
def test_each_step_adds_what_adds_most_to_the_objective(seed: int, k: int, diversity: float) -> None:
    rng = np.random.default_rng(seed)
    scores, categories = rng.normal(size=(2, 8)).astype(np.float32), rng.integers(0, 3, (2, 8))
    found = diversified(torch.from_numpy(scores), torch.from_numpy(categories), diversity, k)
    assert found.shape == (2, k)
    for row in range(2):
        chosen: list[int] = []
        for place in found[row].tolist():
            gains = [
                objective(scores[row], categories[row], [*chosen, i], diversity) if i not in chosen else -np.inf
                for i in range(8)
            ]
            assert gains[place] >= max(gains) - 1e-4
            chosen.append(place)
        assert len(set(chosen)) == k


def test_items_that_cannot_be_chosen_come_last() -> None:
    scores = torch.tensor([[-torch.inf, 1.0, 0.5]])
    assert diversified(scores, torch.tensor([[1, 2, 2]]), 100.0, 3).tolist() == [[1, 2, 0]]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 20), st.integers(1, 20), st.booleans(), st.sampled_from([1, 30, 2**22]))
def test_without_diversity_the_list_is_that_of_the_best_scores(seed: int, k: int, exclude: bool, block: int) -> None:
    model, requests = model_of(seed), requests_of(*HISTORIES, padding=1)
    before, retrieve.BLOCK_SCORES = retrieve.BLOCK_SCORES, block
    try:
        found = InterestRetriever("x", model, CATEGORY, exclude_seen=exclude).retrieve(requests, k)
        expected = ScoreRetriever("x", model, exclude_seen=exclude).retrieve(requests, k)
    finally:
        retrieve.BLOCK_SCORES = before
    assert torch.equal(found.items, expected.items)
    torch.testing.assert_close(found.scores, expected.scores)
    assert torch.equal(found.ranks, expected.ranks)


def test_the_larger_lambda_the_more_categories() -> None:
    requests, k = requests_of(*HISTORIES[:2], *HISTORIES[3:]), 4
    differing = []
    for diversity in (0.0, 2.0, 50.0):
        items = InterestRetriever("x", model_of(5), CATEGORY, diversity).retrieve(requests, k).items
        assert (items > 0).all()
        kinds = CATEGORY[items]
        differing.append(int((kinds[:, :, None] != kinds[:, None]).sum()))
    assert differing[0] <= differing[1] <= differing[2]
    assert differing[0] < differing[2]


def test_no_requests_give_no_rows() -> None:
    assert InterestRetriever("x", model_of(0), CATEGORY, 1.0).retrieve(requests_of(), 3).items.shape == (0, 3)

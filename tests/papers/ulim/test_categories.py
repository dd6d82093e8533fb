"""PGIN: its mixture against loops, what it points at, and what it says where there is nothing to point at."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penchant.errors import ConfigError
from penchant.papers.ulim.categories import COUNTS, PGIN, PGINConfig, counted_categories, visited
from penchant.papers.ulim.sequences import gap_buckets
from tests.papers.ulim.made import CATEGORY, NUM_CATEGORIES, SIZES, histories
from tests.papers.ulim.test_sequences import linear

LENGTHS = [0, 1, 4, 9, 15]


def pgin(seed: int = 0, **changes: Any) -> PGIN:
    torch.manual_seed(seed)
    settings = {"width": 8, "inner": 12, "dropout": 0.0, "short_len": 3, "max_len": 12, **changes}
    model = PGIN(PGINConfig(**settings), SIZES)
    model.set_categories(CATEGORY)
    return model.eval()


@settings(deadline=None, max_examples=50)
@given(batch=st.integers(0, 4), length=st.integers(0, 14), seed=st.integers(0, 999))
def test_visited_categories_are_deduplicated_by_their_last_occurrence(batch: int, length: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    categories = torch.from_numpy(rng.integers(0, 6, (batch, length)))
    inside = torch.from_numpy(rng.random((batch, length)) < 0.7)
    seen = visited(categories, inside, 5)
    for b in range(batch):
        of = [int(c) if ok else 0 for c, ok in zip(categories[b], inside[b], strict=True)]
        last = {c: s + 1 for s, c in enumerate(of) if c}
        expected = sorted(last, key=lambda c: -last[c])
        padding = [0] * (seen.categories.shape[1] - len(expected))
        assert seen.categories[b].tolist() == expected + padding
        assert seen.last[b].tolist() == [last[c] for c in expected] + padding
        assert seen.counts[b].tolist() == [of.count(c) for c in expected] + padding
        assert [int(seen.slot[b, c]) for c in expected] == list(range(len(expected)))


@torch.no_grad()
def test_the_pointer_is_attention_scattered_to_the_categories_of_the_history() -> None:
    model = pgin().double()
    requests = histories([9])
    found = model(requests)
    history, times = requests.history[0].tolist(), requests.history_times_ms[0]
    short = model.short(
        model.actions(
            requests.history[:, -3:],
            CATEGORY[requests.history[:, -3:]],
            requests.times_ms[:, None].expand(1, 3),
            times[None, -3:],
        ),
        torch.ones(1, 3).bool(),
    )
    of = [int(CATEGORY[i]) for i in history]
    distinct = sorted({c for c in of if c}, key=lambda c: -max(s for s, x in enumerate(of) if x == c))
    gap = gap_buckets(requests.times_ms, times[-1:])
    features = model.features(
        torch.tensor(
            [
                math.log1p(9) / 8,
                math.log1p(len(distinct)) / 4,
                max(of.count(c) for c in distinct) / 9,
                int(gap) / 24,
            ]
        ).double()
    )
    query = linear(model.query, linear(model.asks, torch.cat([short[0], features]).numpy()))
    logits = []
    for c in distinct:
        since = gap_buckets(requests.times_ms, times[[max(s for s, x in enumerate(of) if x == c)]])
        token = (
            model.actions.categories.weight[c]
            + model.counts.weight[min(int(math.log2(1 + of.count(c))), COUNTS - 1)]
            + model.actions.gaps.weight[since[0]]
        )
        logits.append(float(query @ linear(model.key, token.numpy())) / math.sqrt(8))
    weights = np.exp(logits) / np.exp(logits).sum()
    expected = np.zeros(NUM_CATEGORIES + 1)
    expected[distinct] = weights
    np.testing.assert_allclose(found.pointer[0].numpy(), expected, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("pointer", ["scatter", "linear"])
def test_the_answer_is_the_mixture_and_a_distribution(pointer: Any) -> None:
    model = pgin(pointer=pointer)
    told = model(histories(LENGTHS))
    for row in range(len(LENGTHS)):
        for c in range(NUM_CATEGORIES + 1):
            gate = float(told.gate[row])
            mixed = gate * float(told.pointer[row, c]) + (1 - gate) * float(told.generator[row, c])
            assert float(told.probs[row, c]) == pytest.approx(mixed, abs=1e-6)
    assert not told.probs[:, 0].any()
    torch.testing.assert_close(told.probs.sum(1), torch.ones(len(LENGTHS)))
    assert bool((told.gate[1:] > 0).all())


@torch.no_grad()
def test_scattered_weights_are_zero_outside_the_history_and_mapped_ones_are_not() -> None:
    requests = histories([6])
    there = set(CATEGORY[requests.history[0]].tolist())
    absent = [c for c in range(1, NUM_CATEGORIES + 1) if c not in there]
    assert absent
    assert not pgin()(requests).pointer[0, absent].any()
    assert bool((pgin(pointer="linear")(requests).pointer[0, absent] > 0).all())


@torch.no_grad()
@pytest.mark.parametrize("raw_up_to", [0, 5, 1024])
@pytest.mark.parametrize("query", ["short", "features", "last"])
def test_a_row_depends_on_neither_padding_nor_company(raw_up_to: int, query: Any) -> None:
    model = pgin(raw_up_to=raw_up_to, pointer_query=query)
    whole = model(histories(LENGTHS, padding=4))
    for row in range(len(LENGTHS)):
        alone = model(histories(LENGTHS).rows(slice(row, row + 1)).last(15))
        torch.testing.assert_close(alone.probs[0], whole.probs[row], rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("length", [8, 9])
def test_long_histories_are_read_by_a_summary_of_each_category(length: int) -> None:
    """Up to `raw_up_to` actions each is a place of the self-attention; beyond, each category is."""
    model, requests = pgin(raw_up_to=8), histories([length])
    told: list[torch.Tensor] = []
    model.long.register_forward_pre_hook(lambda _, inputs: told.append(inputs[0][0]))
    model(requests)
    history, times = requests.history[0], requests.history_times_ms[0]
    of, now = CATEGORY[history], requests.times_ms.expand(length)
    x = model.actions(history, of, now, times)
    if length <= 8:
        torch.testing.assert_close(told[0], x)
        return
    distinct = list(dict.fromkeys(c for c in reversed(of.tolist()) if c))
    assert len(told[0]) == len(distinct) < length
    for row, category in zip(told[0], distinct, strict=True):
        own = (of == category).nonzero()[:, 0]
        count = min(int(math.log2(1 + len(own))), COUNTS - 1)
        gap = gap_buckets(now[:1], times[own[-1:]])
        expected = x[own].mean(0) + model.counts.weight[count] + model.actions.gaps.weight[gap[0]]
        torch.testing.assert_close(row, expected)


@torch.no_grad()
def test_without_an_action_the_generator_alone_answers() -> None:
    told = pgin()(histories([0, 0]))
    assert told.gate.tolist() == [0.0, 0.0]
    assert torch.equal(told.probs, told.generator)
    assert pgin()(histories([])).probs.shape == (0, NUM_CATEGORIES + 1)


@torch.no_grad()
@pytest.mark.parametrize("half", ["newest", "oldest"])
def test_half_a_history_is_read_as_if_the_other_half_were_not_there(half: Any) -> None:
    model = pgin(half=half)
    requests = histories([11])
    changed = requests.history.clone()
    dropped = slice(0, 4) if half == "newest" else slice(4, 8)
    changed[0, dropped] = (changed[0, dropped] + 3) % 24 + 1
    other = requests.__class__(requests.users, requests.times_ms, changed, requests.history_times_ms)
    torch.testing.assert_close(model(requests).probs, model(other).probs)
    assert not torch.allclose(pgin()(requests).probs, pgin()(other).probs)


def test_every_parameter_learns_from_the_mixture() -> None:
    ways: list[dict[str, Any]] = [{}, {"pointer": "linear"}, {"raw_up_to": 4}]
    for changes in ways:
        model = pgin(**changes)
        told = model(histories([9, 15, 12, 3]))
        told.probs.clamp(min=1e-9).log()[:, 1:].sum().backward()
        silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert silent == ["key.bias"] or not silent  # a softmax does not see what all its logits share


def test_frequency_and_last_say_what_needs_no_learning() -> None:
    requests = histories([0, 9])
    of = CATEGORY[requests.history[1]]
    frequency, last = (
        counted_categories(PGINConfig(max_len=12, short_len=3), requests, CATEGORY, NUM_CATEGORIES, how)
        for how in ("frequency", "last")
    )
    assert not frequency[0].any()
    assert not last[0].any()
    for c in range(1, NUM_CATEGORIES + 1):
        assert float(frequency[1, c]) == pytest.approx(int((of == c).sum()) / int((of > 0).sum()))
    assert int(last[1].argmax()) == int(of[of > 0][-1])
    torch.testing.assert_close(last[1].sum(), torch.tensor(1.0))


@pytest.mark.parametrize(
    ("field", "value"), [("width", 0), ("heads", 3), ("dropout", 1.0), ("raw_up_to", -1), ("inner", 0)]
)
def test_impossible_sizes_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=field):
        PGINConfig(**{field: value})

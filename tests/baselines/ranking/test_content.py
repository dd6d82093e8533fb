"""What items look and read like: similarities against NumPy, what is missing, what quantising changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from penchant.baselines.ranking.content import ContentRankerConfig, ItemContent
from penchant.errors import ConfigError

ITEMS = 60


def vectors() -> list[tuple[np.ndarray, np.ndarray]]:
    """As real ones are: all in a narrow cone. Item 4 has no image."""
    rng = np.random.default_rng(0)
    found = []
    for width in (16, 8):
        values = rng.normal(size=(ITEMS + 1, width)) + 3.0
        present = np.ones(ITEMS + 1, dtype=bool)
        present[0] = False
        found.append((values, present))
    found[1][1][4] = False
    return found


def made(**config: Any) -> ItemContent:
    content = ItemContent(ContentRankerConfig(**{"content_widths": (16, 8), "calibration": "none"} | config), ITEMS)
    content.fill(vectors())
    return content


def some_pairs() -> tuple[Tensor, Tensor]:
    history = torch.randint(1, ITEMS + 1, (6, 9), generator=torch.Generator().manual_seed(1))
    history[2, 4:] = 0
    return history, torch.randint(1, ITEMS + 1, (6, 5), generator=torch.Generator().manual_seed(2))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize(("precision", "error"), [("float32", 1e-6), ("float16", 1e-3), ("int8", 1e-2)])
@pytest.mark.parametrize("calibration", ["none", "whiten"])
def test_r_is_half_of_one_and_the_cosine(precision: Any, error: float, calibration: Any) -> None:
    history, items = some_pairs()
    got = made(precision=precision, calibration=calibration)(history, items)
    for m, (values, present) in enumerate(vectors()):
        known = values[present]
        plain = (values - known.mean(0)) / known.std(0) if calibration == "whiten" else values
        for b in range(len(items)):
            for k, item in enumerate(items[b].tolist()):
                for s, past in enumerate(history[b].tolist()):
                    assert bool(got.known[b, k, m, s]) == bool(present[item] and present[past])
                    if present[item] and present[past]:
                        expected = (cosine(plain[item], plain[past]) + 1) / 2
                        assert float(got.r[b, k, m, s]) == pytest.approx(expected, abs=error)
                    else:
                        assert float(got.r[b, k, m, s]) == 0.0


def test_calibrated_similarities_are_even_and_keep_their_order() -> None:
    history, items = some_pairs()
    plain, calibrated = made(), made(calibration="quantile")
    before = plain(history, items)
    assert float(before.r[before.known].min()) > 0.8  # the narrow band
    calibrated.fit([(history, items)])
    after = calibrated(history, items)
    for m in range(2):
        known = after.known[:, :, m]
        raw, r = before.r[:, :, m][known], after.r[:, :, m][known]
        shares = np.histogram(r.numpy(), bins=5, range=(0, 1))[0] / len(r)
        np.testing.assert_allclose(shares, 0.2, atol=0.03)
        order = raw.argsort()
        assert bool((r[order].diff() >= -1e-6).all())
    assert float(after.r.min()) >= 0
    assert float(after.r.max()) <= 1


def test_what_lies_outside_the_training_pairs_is_cut_to_their_range() -> None:
    calibrated = made(calibration="quantile")
    calibrated.fit([(torch.tensor([[1, 2, 3]]), torch.tensor([[5, 6]]))])
    r = calibrated(torch.tensor([[7]]), torch.tensor([[7]])).r  # itself: more alike than any pair
    assert r.flatten().tolist() == [1.0, 1.0]


def test_without_any_known_pair_similarities_stay_what_they_are() -> None:
    calibrated = made(calibration="quantile")
    calibrated.fit([(torch.zeros(1, 3, dtype=torch.int64), torch.tensor([[5, 6]]))])
    history, items = some_pairs()
    torch.testing.assert_close(calibrated(history, items).r, made()(history, items).r, atol=1e-6, rtol=0)


def test_the_placebo_gives_every_item_another_ones_content_always_the_same() -> None:
    plain, shuffled, again = made(precision="float32"), *(made(precision="float32", shuffled=True) for _ in range(2))
    assert torch.equal(shuffled.get_buffer("vectors_1"), again.get_buffer("vectors_1"))
    assert torch.equal(shuffled.present, plain.present)
    a, b = (content.get_buffer("vectors_1")[1:] for content in (plain, shuffled))
    moved = (a != b).any(1).sum()
    assert int(moved) > ITEMS - 8
    assert sorted(a.tolist()) == sorted(b.tolist())


def test_memory_is_what_the_precision_says() -> None:
    held = {p: made(precision=p).get_buffer("vectors_0").nbytes for p in ("float32", "float16", "int8")}
    assert held["float32"] == 2 * held["float16"] == 4 * held["int8"]


@pytest.mark.parametrize("calibration", ["none", "whiten", "quantile"])
def test_held_pairs_say_the_same_and_are_forgotten_with_the_vectors(calibration: Any) -> None:
    content = made(calibration=calibration)
    content.fit([some_pairs()])
    plain = content(*some_pairs())
    content.hold_pairs()
    held = content(*some_pairs())
    torch.testing.assert_close(held.r, plain.r, atol=1e-4, rtol=0)  # quantiles are steep
    assert torch.equal(held.known, plain.known)
    assert content.pairs is not None
    assert "pairs" not in content.state_dict()
    other = made(calibration=calibration, shuffled=True)
    other.fit([some_pairs()])
    content.load_state_dict(other.state_dict())  # as a checkpoint does
    torch.testing.assert_close(content(*some_pairs()).r, other(*some_pairs()).r, atol=1e-4, rtol=0)
    content.fill(vectors())
    assert content.pairs is None


def test_pairs_of_many_items_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penchant.baselines.ranking.content.HELD", ITEMS**2)
    content = made()
    content.hold_pairs()
    assert content.pairs is None


def test_nothing_of_it_learns_and_all_of_it_is_saved() -> None:
    content = made(precision="int8", calibration="quantile")
    assert not list(content.parameters())
    assert set(content.state_dict()) == {"vectors_0", "vectors_1", "scales", "present", "below"}


@pytest.mark.parametrize("modalities", [(), ("text", "text")])
def test_impossible_modalities_are_refused(modalities: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="Name one or more, each once"):
        ContentRankerConfig(modalities=modalities)


@pytest.mark.parametrize("calibration", ["none", "quantile"])
def test_similarities_are_the_same_where_training_computes_in_bfloat16(calibration: Any) -> None:
    content = made(precision="float32", calibration=calibration)
    history, items = torch.tensor([[3, 5, 9]]), torch.tensor([[4, 7]])
    expected = content(history, items)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(content(history, items).r, expected.r)

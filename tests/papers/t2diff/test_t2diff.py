"""The mixed-attention tower against loops over Eq. 19 to 22; sessions, lags; what a served guess depends on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from penchant.data.history import Requests
from penchant.errors import ConfigError
from penchant.models import Sizes
from penchant.papers.t2diff.model import SMALLEST_SUM, Norm, T2Diff, T2DiffConfig, attention_weights
from tests.checkerboard import requests_of

NORMS: tuple[Norm, ...] = get_args(Norm)
NUM_ITEMS = 12
SMALL: dict[str, Any] = {"width": 8, "channels": 4, "steps": 6, "session_items": 3, "inner": 6, "ddim_steps": 3}
HISTORIES = ([1, 3, 5, 7, 9], [2, 4], [8], [])


def model_of(seed: int = 0, **changes: Any) -> T2Diff:
    torch.manual_seed(seed)
    return T2Diff(T2DiffConfig(**{**SMALL, **changes}), Sizes(num_items=NUM_ITEMS)).eval()


def ratio_loop(values: list[float]) -> list[float]:
    """Eq. 20 as printed, its sum kept from zero."""
    total = sum(values)
    if abs(total) < SMALLEST_SUM:
        total = -SMALLEST_SUM if total < 0 else SMALLEST_SUM
    return [value / total for value in values]


def weights_loop(logits: list[float], norm: Norm) -> list[float]:
    match norm:
        case "softmax":
            powers = [np.exp(v) for v in logits]
            return [p / sum(powers) for p in powers]
        case "sigmoid":
            return [1 / (1 + np.exp(-v)) for v in logits]
        case "none":
            return logits
        case "relu_ratio":
            return ratio_loop([max(v, 0.0) for v in logits])
        case "literal_ratio":
            return ratio_loop(logits)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("logits", [[0.5, 2.0, -0.3], [1.0, -1.0], [-1.0, 0.25], [-2.0, -3.0], [0.0], [1e-4, -2e-4]])
def test_weights_are_those_of_a_loop_even_where_the_logits_sum_to_zero(norm: Norm, logits: list[float]) -> None:
    padded = torch.tensor([[9.0, -4.0, *logits]])
    real = torch.tensor([[False, False, *[True] * len(logits)]])
    weights = attention_weights(padded, real, norm)[0]
    assert torch.isfinite(weights).all()
    assert not weights[:2].any()
    np.testing.assert_allclose(weights[2:].numpy(), weights_loop(logits, norm), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_no_history_has_no_weight_and_no_gradient_breaks(norm: Norm) -> None:
    logits = torch.tensor([[3.0, -1.0], [1.0, -1.0]], requires_grad=True)
    weights = attention_weights(logits, torch.tensor([[False, False], [True, True]]), norm)
    assert not weights[0].any()
    weights.square().sum().backward()
    assert torch.isfinite(logits.grad if logits.grad is not None else torch.tensor(torch.nan)).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("time_lag", [True, False])
@torch.no_grad()
def test_the_tower_is_equations_19_to_22_as_a_loop(norm: Norm, time_lag: bool) -> None:
    model = model_of(attention=norm, time_lag=time_lag)
    requests = requests_of(*HISTORIES[:3])
    xhat = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    told = model.tower(model.past(requests), xhat)
    for row, items in enumerate(HISTORIES[:3]):
        session, history = items[-3:], items[:-3]
        tokens = torch.cat([model.items(torch.tensor(session)), xhat[row : row + 1]])
        h = (tokens + model.positions[-len(tokens) :])[None]
        for block in model.blocks:
            h = block(h, torch.ones(1, len(tokens), dtype=torch.bool))
        h_s = model.norm(h)[0].mean(0)
        logits, vectors = [], []
        for place, item in enumerate(history):
            x = model.items(torch.tensor(item))
            read = [x, x - h_s, x * h_s, h_s]
            if model.lags is not None:
                seconds = (10**6 - 1000 * (place + 1)) / 1000
                read.append(model.lags(torch.tensor(int(np.log2(1 + seconds)))))
            logits.append(float(model.activation(torch.cat(read))))
            vectors.append(x)
        h_l = torch.zeros(8)
        for weight, x in zip(weights_loop(logits, norm) if logits else [], vectors, strict=True):
            h_l += weight * x
        torch.testing.assert_close(told[row], model.user(torch.cat([h_l, h_s])), rtol=1e-4, atol=1e-4)


def timed(minutes: list[list[float]], now: float = 1000.0) -> Requests:
    """Histories of items 1, 2, ... at these minutes."""
    requests = requests_of(*([i % NUM_ITEMS + 1 for i in range(len(m))] for m in minutes))
    times = torch.zeros_like(requests.history)
    for row, at in enumerate(minutes):
        times[row, : len(at)] = (torch.tensor(at) * 60_000).long()
    return replace(requests, history_times_ms=times, times_ms=torch.full((len(minutes),), int(now * 60_000)))


def test_a_session_is_the_last_k_actions_or_those_after_the_last_pause() -> None:
    requests = timed([[0, 10, 45, 50, 55], [0, 31, 62], [1, 2, 3, 4], [7]])
    last = model_of().past(requests).session.sum(1)
    gap = model_of(session="gap").past(requests)
    assert last.tolist() == [3, 3, 3, 1]
    assert gap.session.sum(1).tolist() == [3, 1, 3, 1]
    assert gap.session[:, -1].all(), "the last action is always of the last session"
    assert not (gap.session & ~gap.real).any()
    assert model_of(session="gap", session_items=10).past(requests).session.sum(1).tolist() == [3, 1, 4, 1]


def test_lags_grow_with_the_time_before_the_request_and_stay_in_the_table() -> None:
    lags = model_of().past(timed([[0, 500, 990, 999.99]])).lags[0].tolist()
    assert lags == sorted(lags, reverse=True)
    assert lags[-1] == 0
    assert lags[0] == int(np.log2(1 + 60_000))
    assert int(model_of().past(timed([[0]], now=1e12)).lags) == 39
    assert int(model_of().past(timed([[50]], now=1.0)).lags) == 0, "an action after the request counts as at it"


@torch.no_grad()
def test_the_lag_is_read() -> None:
    early, late = (timed([[0, 1, 2, 3, 4]], now=now) for now in (5.0, 5e5))
    model, without = model_of(), model_of(time_lag=False)
    xhat = torch.zeros(1, 8)
    assert not torch.equal(model.tower(model.past(early), xhat), model.tower(model.past(late), xhat))
    assert torch.equal(without.user_vectors(early), without.user_vectors(late))


WAYS = ("onestep", "ddim", "chain", "zero", "last")


@pytest.mark.parametrize("xhat", WAYS)
@pytest.mark.parametrize("drift", [True, False])
@torch.no_grad()
def test_a_user_without_history_gets_zero_and_all_others_the_same_in_any_company(xhat: Any, drift: bool) -> None:
    model = model_of(xhat=xhat, drift=drift, samples=2)
    users = torch.tensor([5, 6, 7, 8])
    requests = replace(requests_of(*HISTORIES), users=users)
    together = model.user_vectors(requests)
    assert torch.isfinite(together).all()
    assert not together[3].any()
    assert together[:3].any(1).all()
    wide = replace(requests_of(*HISTORIES, padding=4), users=users)
    torch.testing.assert_close(model.user_vectors(wide), together, rtol=1e-5, atol=1e-5)
    for row in range(4):
        alone = model.user_vectors(requests.rows(slice(row, row + 1)))
        torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=15)
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=4), padding=st.integers(0, 6), seed=st.integers(0, 9))
@torch.no_grad()
def test_padding_changes_no_users_vector(lengths: list[int], padding: int, seed: int) -> None:
    dice = np.random.default_rng(seed)
    histories = [dice.integers(1, NUM_ITEMS + 1, n).tolist() for n in lengths]
    model = model_of(xhat="ddim", depth=2)
    wide, narrow = (model.user_vectors(requests_of(*histories, padding=p)) for p in (padding, 0))
    torch.testing.assert_close(wide, narrow, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("xhat", ["onestep", "ddim", "chain"])
@torch.no_grad()
def test_noise_is_the_users_own_and_of_the_stated_seed(xhat: Any) -> None:
    model = model_of(xhat=xhat)
    one, other = (replace(requests_of([1, 3, 5]), users=torch.tensor([u])) for u in (1, 2))
    assert torch.equal(model.user_vectors(one), model.user_vectors(one))
    assert not torch.equal(model.user_vectors(one), model.user_vectors(other))
    again = model_of(xhat=xhat, noise_seed=1)
    again.load_state_dict(model.state_dict())
    assert not torch.equal(model.user_vectors(one), again.user_vectors(one))


@torch.no_grad()
def test_averaged_guesses_are_the_mean_of_single_ones() -> None:
    one, many = model_of(), model_of(samples=3)
    past = one.past(requests_of([1, 3, 5], [2]))
    noise = torch.randn(30, 2, 3, 8)

    def at(first: int) -> Tensor:
        return one.guess(past.x, past.real, lambda number: noise[first + number])

    expected = (at(0) + at(7) + at(14)) / 3
    torch.testing.assert_close(many.guess(past.x, past.real, lambda number: noise[number]), expected)


@torch.no_grad()
def test_the_guess_undoes_the_drift_and_the_scale() -> None:
    for drift in (True, False):
        model = model_of(drift=drift)
        model.scale.fill_(0.5)
        x, z_0 = torch.randn(2, 2, 4, 8).unbind()
        expected = z_0[:, -1] * 0.5 + (x[:, -1] if drift else 0)
        torch.testing.assert_close(model.restored(z_0, x), expected)


def test_controls_have_no_diffusion_module() -> None:
    for xhat in ("zero", "last"):
        model = model_of(xhat=xhat)
        assert model.diffusion is None
        assert not any("diffusion" in name for name in model.state_dict())
    past = model_of(xhat="last").past(requests_of(*HISTORIES))
    guess = model_of(xhat="last").guess(past.x, past.real, lambda _: past.x)
    torch.testing.assert_close(guess, past.x[:, -1])


def test_only_what_the_model_can_read_is_read() -> None:
    model = model_of(max_len=3)
    whole, cut = requests_of([9, 9, 1, 3, 5]), requests_of([1, 3, 5])
    cut = replace(cut, history_times_ms=whole.history_times_ms[:, 2:])
    assert torch.equal(model.user_vectors(whole), model.user_vectors(cut))


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 0},
        {"heads": 3},
        {"dropout": 1.0},
        {"session_items": 0},
        {"ddim_steps": 51},
        {"gap_minutes": -1.0},
        {"samples": 0},
        {"steps": 1},
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        T2DiffConfig(**changes)

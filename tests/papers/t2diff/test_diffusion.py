"""The diffusion module against NumPy loops over the paper's equations; the U-Net; noise that belongs to a user."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from penchant.errors import ConfigError
from penchant.layers import noise_of_users
from penchant.papers.t2diff.diffusion import Diffusion, DiffusionConfig, Kind, UNet, noise_levels

KINDS: tuple[Kind, ...] = get_args(Kind)
WIDTH = 6


def diffusion_of(**changes: Any) -> Diffusion:
    torch.manual_seed(0)
    config = DiffusionConfig(**{"steps": 7, "channels": 4, **changes})
    return Diffusion(config, UNet(config, WIDTH)).eval()


def histories(*lengths: int, width: int = 0) -> tuple[Tensor, Tensor]:
    """x [B, S, D], zero at padding on the left, and where it is real."""
    width = width or max(lengths)
    real = torch.arange(width) >= width - torch.tensor(lengths)[:, None]
    x = torch.zeros(len(lengths), width, WIDTH)
    for row, length in enumerate(lengths):
        x[row, width - length :] = torch.randn(length, WIDTH, generator=torch.Generator().manual_seed(row))
    return x, real


@pytest.mark.parametrize("steps", [2, 10, 50, 200])
@pytest.mark.parametrize("kind", KINDS)
def test_schedules_have_the_same_end_points_and_grow(kind: Kind, steps: int) -> None:
    config = DiffusionConfig(schedule=kind, steps=steps)
    betas = noise_levels(config).numpy()
    np.testing.assert_allclose(betas[[0, -1]], [1e-3, 0.5], rtol=1e-9)
    assert (np.diff(betas) > 0).all()
    for r in range(1, steps + 1):
        if kind == "exp":
            b = math.log(0.5 / 1e-3) / (steps - 1)
            expected = 1e-3 * (1e-3 / 0.5) ** (1 / (steps - 1)) * math.exp(b * r)
        elif kind == "log":
            expected = 1e-3 + (0.5 - 1e-3) * math.log(r) / math.log(steps)
        else:
            expected = 1e-3 + (0.5 - 1e-3) * (r - 1) / (steps - 1)
        assert betas[r - 1] == pytest.approx(expected, rel=1e-9)


def test_what_is_left_of_the_drift_is_a_product_over_steps() -> None:
    diffusion = Diffusion(DiffusionConfig(), UNet(DiffusionConfig(), 4))
    left = 1.0
    assert diffusion.alpha_bar[0] == 1
    for r, beta in enumerate(noise_levels(DiffusionConfig()).tolist(), start=1):
        left *= 1 - beta
        assert float(diffusion.alpha_bar[r]) == pytest.approx(left, rel=1e-5)
    assert left == pytest.approx(0.00715, abs=1e-5)


@pytest.mark.parametrize("t", [1, 2, 5, 7])
def test_the_posterior_is_that_of_equations_5_and_6(t: int) -> None:
    diffusion = diffusion_of()
    z, z_0 = torch.randn(2, 3, 4, WIDTH, generator=torch.Generator().manual_seed(1)).unbind()
    mean, variance = diffusion.posterior(z, z_0, t)
    betas = noise_levels(diffusion.config).numpy()
    alpha = 1 - betas
    bar, before = np.prod(alpha[:t]), np.prod(alpha[: t - 1])
    expected = np.sqrt(before) * betas[t - 1] / (1 - bar) * z_0.numpy()
    expected += np.sqrt(alpha[t - 1]) * (1 - before) / (1 - bar) * z.numpy()
    np.testing.assert_allclose(mean.numpy(), expected, rtol=2e-4, atol=1e-5)
    assert float(variance) == pytest.approx((1 - before) / (1 - bar) * betas[t - 1], rel=1e-4, abs=1e-8)
    if t == 1:
        torch.testing.assert_close(mean, z_0, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("noise", ["sqrt", "literal", "none"])
@torch.no_grad()
def test_the_chain_is_algorithm_2_as_a_loop(noise: Any) -> None:
    diffusion = diffusion_of(reverse_noise=noise)
    x, real = histories(5, 2)
    draw = noise_of_users(torch.tensor([3, 9]), 5, WIDTH, 0)
    told = list(diffusion.chain(x, real, draw))
    assert len(told) == 7
    z = draw(0)
    for number, t in enumerate(range(7, 0, -1), start=1):
        z_0 = diffusion.estimate(z, torch.tensor([t, t]), x, real)
        torch.testing.assert_close(told[number - 1], z_0)
        z, variance = diffusion.posterior(z, z_0, t)
        if t > 1:
            size = {"sqrt": variance.sqrt(), "literal": variance, "none": 0.0}[noise]
            z = z + size * draw(number)
    torch.testing.assert_close(z, told[-1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_few_steps_follow_song_et_al_and_one_is_the_estimate_from_noise() -> None:
    diffusion = diffusion_of(steps=9)
    x, real = histories(4)
    draw = noise_of_users(torch.tensor([1]), 4, WIDTH, 0)
    first = diffusion.estimate(draw(0), torch.tensor([9]), x, real)
    torch.testing.assert_close(diffusion.ddim(x, real, draw, 1), first)
    z = draw(0)
    for now, after in ((9, 6), (6, 3), (3, 0)):
        z_0 = diffusion.estimate(z, torch.tensor([now]), x, real)
        bar, there = float(diffusion.alpha_bar[now]), float(diffusion.alpha_bar[after])
        z = math.sqrt(there) * z_0 + math.sqrt(1 - there) * (z - math.sqrt(bar) * z_0) / math.sqrt(1 - bar)
    torch.testing.assert_close(diffusion.ddim(x, real, draw, 3), z)


@settings(deadline=None, max_examples=20)
@given(lengths=st.lists(st.integers(0, 11), min_size=1, max_size=4), more=st.integers(0, 9), depth=st.integers(0, 3))
@torch.no_grad()
def test_padding_changes_no_estimate(lengths: list[int], more: int, depth: int) -> None:
    diffusion = diffusion_of(depth=depth)
    width = max(*lengths, 1)
    r = torch.arange(1, len(lengths) + 1)
    (x, real), (wide, wide_real) = histories(*lengths, width=width), histories(*lengths, width=width + more)
    z = torch.randn(len(lengths), width, WIDTH, generator=torch.Generator().manual_seed(5))
    # What stands at padding is noise too, and must not be read.
    wide_z = torch.cat([torch.randn(len(lengths), more, WIDTH), z], dim=1)
    told, wide_told = diffusion.estimate(z, r, x, real), diffusion.estimate(wide_z, r, wide, wide_real)
    torch.testing.assert_close(wide_told[:, more:], told, rtol=1e-5, atol=1e-5)
    assert not wide_told[~wide_real].any()


def test_the_network_is_told_the_step_unless_as_printed() -> None:
    x, real = histories(4)
    for told, differs in ((True, True), (False, False)):
        diffusion = diffusion_of(step_embedding=told)
        low, high = (diffusion.estimate(x, torch.tensor([r]), x, real) for r in (1, 7))
        assert torch.equal(low, high) != differs


def test_neighbours_are_read_and_every_parameter_learns() -> None:
    diffusion = diffusion_of(depth=2)
    x, real = histories(8)
    moved = x.clone()
    moved[0, -2] += 1
    before, after = (diffusion.estimate(x, torch.tensor([3]), c, real)[0, -1] for c in (x, moved))
    assert not torch.allclose(before, after)
    diffusion.estimate(x, torch.tensor([3]), x, real).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in diffusion.parameters())


def test_a_users_noise_is_their_own_in_any_company_and_with_any_padding() -> None:
    users = torch.tensor([0, 1, 2, 10**9])
    draw = noise_of_users(users, 20, 8, seed=0)
    assert torch.equal(draw(3)[1:2], noise_of_users(users[1:2], 20, 8, 0)(3))
    assert torch.equal(draw(3)[:, 5:], noise_of_users(users, 15, 8, 0)(3))
    assert torch.equal(draw(3), draw(3))
    assert draw(0).shape == (4, 20, 8)
    for other in (draw(4), noise_of_users(users, 20, 8, 1)(3), noise_of_users(users + 1, 20, 8, 0)(3)):
        assert abs(torch.corrcoef(torch.stack([draw(3).flatten(), other.flatten()]))[0, 1]) < 0.15


def test_the_noise_is_standard_normal() -> None:
    values = noise_of_users(torch.arange(200), 50, 16, seed=4)(1).double().flatten()
    assert torch.isfinite(values).all()
    moments = [float(values.pow(k).mean()) for k in (1, 2, 3, 4)]
    np.testing.assert_allclose(moments, [0, 1, 0, 3], atol=0.06)
    columns = noise_of_users(torch.arange(4000), 1, 8, seed=4)(0)[:, 0]
    torch.testing.assert_close(torch.corrcoef(columns.T), torch.eye(8), atol=0.08, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [{"steps": 1}, {"first_beta": 0.0}, {"last_beta": 1.0}, {"first_beta": 0.6}, {"channels": 0}, {"depth": -1}],
)
def test_impossible_settings_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        DiffusionConfig(**changes)

"""KARMA's Eq. 8: each process against NumPy and against a denoiser that is known to be best; the head; the pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from penchant.data.store import ContentVectors
from penchant.errors import ConfigError, StoreError
from penchant.papers.karma.denoiser import AdaptiveBlock
from penchant.papers.karma.generators import (
    DDPM,
    EDM,
    LEVELS,
    Flow,
    Generator,
    GeneratorConfig,
    VisualTargets,
    alpha_bar,
    reverse_step,
)
from penchant.papers.karma.language import another_item

Kind = Literal["flow", "ddpm", "edm"]
every_kind = pytest.mark.parametrize("kind", ["flow", "ddpm", "edm"])


def tiny(kind: str, *, steps: int = 8, target_width: int = 5, condition_width: int = 3) -> Generator:
    torch.manual_seed(0)
    config = GeneratorConfig(kind=cast(Kind, kind), width=16, blocks=2, steps=steps)
    return Generator(config, target_width, condition_width)


def awake(generator: Generator) -> Generator:
    """The same with every weight random: a head that has learned something."""
    for parameter in generator.parameters():
        nn.init.normal_(parameter, std=0.2)
    return generator


def rows(count: int, *widths: int, seed: int = 1) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(count, width, generator=draw) for width in widths]


def seeded(seed: int, *shape: int) -> Callable[[], Tensor]:
    """Normal noise from a generator of its own."""
    draw = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=draw)


def printed_alpha_bar(level: np.ndarray | float) -> np.ndarray:
    """Nichol and Dhariwal 2021, Eq. 17."""

    def f(t: np.ndarray | float) -> np.ndarray:
        return np.cos((np.asarray(t) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2

    return f(level) / f(0)


class Ideal(nn.Module):
    """The best denoiser there is for v ~ N(mean, std^2): E[v | x] by Gaussian conditioning, said as each kind asks."""

    def __init__(self, kind: str, mean: float, std: float) -> None:
        super().__init__()
        self.kind, self.mean, self.std = kind, mean, std

    def forward(self, given: Tensor, clock: Tensor, condition: Tensor) -> Tensor:
        clock = clock[:1, None].double()  # a sample's rows are all at one time
        if self.kind == "flow":  # x = t v + (1 - t) noise
            v = self.expected(given, clock, 1 - clock)
            answer = v - (given - clock * v) / (1 - clock)
        elif self.kind == "ddpm":
            kept = torch.from_numpy(printed_alpha_bar(clock.numpy() * 1000))
            answer = self.expected(given, kept.sqrt(), (1 - kept).sqrt())
        else:
            sigma = (4 * clock).exp()
            x = given * (sigma**2 + 1).sqrt()
            answer = (self.expected(x, torch.ones_like(sigma), sigma) - x / (sigma**2 + 1)) / (
                sigma / (sigma**2 + 1).sqrt()
            )
        return answer.to(given.dtype)

    def expected(self, x: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
        gain = signal * self.std**2 / (signal**2 * self.std**2 + noise**2)
        return self.mean + gain * (x - signal * self.mean)


def ideal(kind: str, *, mean: float, std: float, steps: int, width: int = 4) -> Generator:
    generator = tiny(kind, steps=steps, target_width=width)
    generator.denoiser = cast(type(generator.denoiser), Ideal(kind, mean, std))
    return generator


# The equations


def test_flow_is_a_straight_line_and_its_velocity() -> None:
    v, noise = rows(4, 3, 3)
    t = torch.tensor([0.0, 0.25, 0.5, 1.0])
    given, clock, answer = (x.numpy() for x in Flow(8).question(v, noise, t))
    share = t.numpy()[:, None]
    np.testing.assert_allclose(given, share * v.numpy() + (1 - share) * noise.numpy(), rtol=1e-5, atol=1e-6)
    # A velocity is what lies between two points of the path over what lies between their times.
    later = Flow(8).question(v, noise, t + 0.5).given.numpy()
    np.testing.assert_allclose(answer, (later - given) / 0.5, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(clock, t.numpy())


def test_ddpm_keeps_the_cosine_share_of_the_signal_and_asks_for_v() -> None:
    v, noise = rows(4, 3, 3)
    level = torch.tensor([1.0, 250.0, 500.0, 1000.0])
    kept = printed_alpha_bar(level.numpy())
    np.testing.assert_allclose(alpha_bar(level).numpy(), kept, rtol=1e-5, atol=1e-9)
    given, clock, answer = (x.numpy() for x in DDPM(8).question(v, noise, level))
    expected = np.sqrt(kept)[:, None] * v.numpy() + np.sqrt(1 - kept)[:, None] * noise.numpy()
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(clock, level.numpy() / 1000)
    np.testing.assert_array_equal(answer, v.numpy())


@pytest.mark.parametrize(("kept", "less"), [(0.5, 0.8), (0.01, 0.02), (0.9, 0.99)])
def test_a_reverse_step_is_what_bayes_says(kept: float, less: float) -> None:
    """Ho et al. 2020, Eq. 6 and 7: x_s is known twice, from v and from x_t, and the two are weighed by precision."""
    alpha, (v, x) = kept / less, (0.7, -1.3)
    of_prior, of_likelihood = 1 / (1 - less), alpha / (1 - alpha)
    mean = (math.sqrt(less) * v * of_prior + x / math.sqrt(alpha) * of_likelihood) / (of_prior + of_likelihood)
    of_v, of_x, variance = reverse_step(kept, less)
    assert of_v * v + of_x * x == pytest.approx(mean)
    assert variance == pytest.approx(1 - alpha)  # beta_t, the wider one
    assert variance > 1 / (of_prior + of_likelihood)  # beta-tilde_t


def test_the_last_reverse_step_says_the_estimate() -> None:
    assert reverse_step(0.9, 1.0) == pytest.approx((1.0, 0.0, 0.1))


def test_edm_asks_for_the_printed_loss() -> None:
    """Karras et al. 2022, Eq. 7 and 8 and their Table 1, with any sigma_data; here it is 1."""
    v, noise, said = rows(5, 3, 3, 3)
    sigma, data = np.array([0.002, 0.1, 1.0, 5.0, 80.0]), 1.0
    given, clock, answer = EDM(8).question(v, noise, torch.tensor(sigma, dtype=torch.float32))
    c_skip = data**2 / (sigma**2 + data**2)
    c_out = sigma * data / np.sqrt(sigma**2 + data**2)
    c_in, c_noise = 1 / np.sqrt(sigma**2 + data**2), np.log(sigma) / 4
    weight = (sigma**2 + data**2) / (sigma * data) ** 2
    v, noise, said = v.double(), noise.double(), said.double()
    x = v.numpy() + sigma[:, None] * noise.numpy()
    np.testing.assert_allclose(given.numpy(), c_in[:, None] * x, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(clock.numpy(), c_noise, rtol=1e-5)
    estimate = c_skip[:, None] * x + c_out[:, None] * said.numpy()
    expected = weight[:, None] * (estimate - v.numpy()) ** 2
    np.testing.assert_allclose((said - answer).square().numpy(), expected, rtol=1e-3, atol=1e-5)


def test_edm_falls_through_the_printed_noise_levels() -> None:
    sigmas = EDM(5).sigmas()
    expected = [(80 ** (1 / 7) + i / 4 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(5)]
    assert sigmas == pytest.approx([*expected, 0])
    assert EDM(1).sigmas() == pytest.approx([80, 0])


def test_times_are_drawn_as_each_paper_says() -> None:
    torch.manual_seed(0)
    target = torch.zeros(20_000, 1)
    t, level, sigma = Flow(8).times(target), DDPM(8).times(target), EDM(8).times(target)
    assert 0 <= float(t.min()) < 0.001
    assert 0.999 < float(t.max()) < 1
    assert float(t.mean()) == pytest.approx(0.5, abs=0.01)
    assert torch.equal(level, level.round())
    assert (float(level.min()), float(level.max())) == (1, LEVELS)
    assert float(level.mean()) == pytest.approx(500.5, abs=8)
    assert float(sigma.log().mean()) == pytest.approx(-1.2, abs=0.03)
    assert float(sigma.log().std()) == pytest.approx(1.2, abs=0.03)


# Samples


@pytest.mark.parametrize(("kind", "steps"), [("flow", 16), ("ddpm", 500), ("edm", 100)])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.5), (-1.5, 0.2)])
def test_with_the_best_denoiser_the_samples_are_the_data(kind: str, steps: int, mean: float, std: float) -> None:
    generator = ideal(kind, mean=mean, std=std, steps=steps)
    samples = generator.sample(torch.zeros(5000, 3), noise=seeded(0, 5000, 4)).double()
    # EDM begins at N(0, 80^2) instead of N(mean, 80^2 + std^2): std / 80 of the mean is not made up.
    expected = mean * (1 - std / 80) if kind == "edm" else mean
    error = std / math.sqrt(samples.numel())
    assert float(samples.mean()) == pytest.approx(expected, abs=4 * error)
    assert float(samples.std()) == pytest.approx(std, abs=4 * error / math.sqrt(2) + 0.005 * std)


@pytest.mark.parametrize(("kind", "least", "most"), [("flow", 0.99, 1.01), ("ddpm", 0.99, 1.05), ("edm", 0.99, 1.04)])
def test_the_default_steps_are_nearly_enough(kind: str, least: float, most: float) -> None:
    generator = ideal(kind, mean=0.7, std=0.5, steps=GeneratorConfig().steps)
    samples = generator.sample(torch.zeros(5000, 3), noise=seeded(0, 5000, 4))
    assert least < float(samples.std()) / 0.5 < most


@pytest.mark.parametrize("kind", ["ddpm", "edm"])
def test_one_step_is_the_estimate_at_full_noise(kind: str) -> None:
    samples = ideal(kind, mean=0.7, std=0.5, steps=1).sample(torch.zeros(50, 3))
    torch.testing.assert_close(samples, torch.full_like(samples, 0.7), atol=0.02, rtol=0)


@every_kind
def test_more_samples_come_nearer_to_the_mean(kind: str) -> None:
    generator = ideal(kind, mean=0.7, std=0.5, steps=16)
    noise = seeded(0, 1000, 4)
    far = [
        float((generator.sample(torch.zeros(1000, 3), count=count, noise=noise) - 0.7).square().mean().sqrt())
        for count in (1, 4, 16)
    ]
    assert far == pytest.approx([0.5, 0.25, 0.125], rel=0.1)


@every_kind
def test_a_mean_of_samples_is_the_mean_of_samples(kind: str) -> None:
    generator, (condition,) = awake(tiny(kind)), rows(3, 3)
    noise = seeded(5, 3, 5)
    each = [generator.sample(condition, noise=noise) for _ in range(3)]
    again = generator.sample(condition, count=3, noise=seeded(5, 3, 5))
    torch.testing.assert_close(again, torch.stack(each).mean(0))
    with pytest.raises(ValueError, match="count is 0"):
        generator.sample(condition, count=0)


@every_kind
def test_samples_depend_on_the_noise_alone(kind: str) -> None:
    generator, (condition,) = awake(tiny(kind)), rows(4, 3)
    state = torch.get_rng_state()
    first, same, other = (generator.sample(condition, noise=seeded(seed, 4, 5)) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, same)
    assert not torch.isclose(first, other).any()
    assert first.shape == (4, 5)
    assert not first.requires_grad
    assert generator.sample(condition[:0]).shape == (0, 5)


@every_kind
def test_a_trained_head_tells_two_conditions_apart(kind: str) -> None:
    """Made-up data: under one condition v is around (1, -1), under the other around (-1, 1)."""
    generator = tiny(kind, steps=16, target_width=2, condition_width=2)
    optimizer = torch.optim.Adam(generator.parameters(), lr=2e-2)
    side = torch.arange(256) % 2
    condition, center = nn.functional.one_hot(side).float(), torch.tensor([[1.0, -1.0], [-1.0, 1.0]])[side]
    for _ in range(100):
        optimizer.zero_grad()
        generator.loss(center + 0.3 * torch.randn(256, 2), condition).backward()
        optimizer.step()
    samples = generator.sample(condition, noise=seeded(0, 256, 2))
    for which in (0, 1):
        mine = samples[side == which]
        torch.testing.assert_close(mine.mean(0), center[which], atol=0.3, rtol=0)
        assert 0.12 < float(mine.std(0).mean()) < 0.45


def test_a_noise_of_its_own_makes_a_row_alone_what_it_is_in_company() -> None:
    generator, (condition,), (noise,) = awake(tiny("flow")), rows(4, 3), rows(4, 5)
    every = generator.sample(condition, count=2, noise=lambda: noise)
    torch.testing.assert_close(generator.sample(condition[2:3], count=2, noise=lambda: noise[2:3]), every[2:3])
    one = generator.sample(condition, noise=lambda: noise[2:3])
    torch.testing.assert_close(one[2:3], every[2:3])
    assert not torch.isclose(one[0], every[0]).any()


def test_regression_says_the_mean_of_what_a_condition_may_mean() -> None:
    generator = tiny("mse", target_width=2, condition_width=2)
    optimizer = torch.optim.Adam(generator.parameters(), lr=2e-2)
    side = torch.arange(256) % 2
    condition = nn.functional.one_hot(side).float()
    for _ in range(150):
        optimizer.zero_grad()
        # Of either condition two answers, far apart, of which the first is three times as likely.
        other = (torch.rand(256, 1) < 0.25).float()
        generator.loss((1 - 2 * side[:, None]) * (1 - 4 * other).expand(-1, 2), condition).backward()
        optimizer.step()
    said = generator.sample(condition, count=5)
    assert torch.equal(said, generator.sample(condition))
    torch.testing.assert_close(said, torch.zeros(256, 2), atol=0.4, rtol=0)


# The loss


@every_kind
def test_the_loss_begins_at_its_closed_form(kind: str) -> None:
    """The head begins as 0, so the loss is the mean square of what is asked."""
    generator = tiny(kind)
    target, condition = rows(20_000, 5, 3)
    target = 1.5 * target + 1
    power = float(target.square().mean())
    if kind == "flow":
        expected = power + 1
    elif kind == "ddpm":
        expected = power
    else:  # (sigma^2 E v^2 + 1) / (sigma^2 + 1), averaged over ln sigma ~ N(-1.2, 1.2^2)
        nodes, weights = np.polynomial.hermite_e.hermegauss(60)
        squared = np.exp(2 * (-1.2 + 1.2 * nodes))
        expected = float(((squared * power + 1) / (squared + 1) * weights).sum() / weights.sum())
    assert float(generator.loss(target, condition).detach()) == pytest.approx(expected, rel=0.02)


@every_kind
def test_gradients_reach_the_condition_and_every_weight(kind: str) -> None:
    generator, (target, condition) = awake(tiny(kind)), rows(6, 5, 3)
    condition.requires_grad_()
    generator.loss(target, condition).backward()
    assert condition.grad is not None
    assert condition.grad.any(1).all()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@every_kind
def test_a_head_that_has_learned_nothing_does_not_disturb_the_condition(kind: str) -> None:
    generator, (target, condition) = tiny(kind), rows(6, 5, 3)
    condition.requires_grad_()
    generator.loss(target, condition).backward()
    assert condition.grad is not None
    assert not condition.grad.any()
    learning = {name for name, p in generator.named_parameters() if p.grad is not None and p.grad.any()}
    assert learning == {f"denoiser.{layer}.{part}" for layer in ("leave", "through") for part in ("weight", "bias")}


@every_kind
def test_no_rows_are_a_zero_with_a_gradient(kind: str) -> None:
    generator, condition = awake(tiny(kind)), torch.zeros(0, 3, requires_grad=True)
    loss = generator.loss(torch.zeros(0, 5), condition)
    assert float(loss.detach()) == 0
    loss.backward()
    assert condition.grad is not None
    assert all(p.grad is not None and not p.grad.any() for p in generator.parameters())


# The denoiser


def test_a_block_is_nothing_at_first_and_then_what_its_key_says() -> None:
    torch.manual_seed(0)
    block, (x, key) = AdaptiveBlock(4), rows(3, 4, 4)
    assert torch.equal(block(x, key), x)
    nn.init.normal_(block.steer.weight)
    nn.init.normal_(block.steer.bias)
    said = block(x, key).detach().numpy()
    first, second = block.mlp[0], block.mlp[-1]
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    w, b, w1, b1, w2, b2 = (
        p.detach().double().numpy() for layer in (block.steer, first, second) for p in (layer.weight, layer.bias)
    )
    for n in range(3):
        shift, scale, gate = (w @ key[n].double().numpy() + b).reshape(3, 4)
        row = x[n].double().numpy()
        normed = (row - row.mean()) / np.sqrt(row.var() + 1e-5)
        inner = w1 @ (normed * (1 + scale) + shift) + b1
        inner = inner * 0.5 * (1 + np.array([math.erf(i / math.sqrt(2)) for i in inner]))
        np.testing.assert_allclose(said[n], row + gate * (w2 @ inner + b2), rtol=1e-4, atol=1e-5)


def test_the_denoiser_sees_the_time_and_the_conditions_direction_but_not_its_length() -> None:
    denoiser, (x, condition) = awake(tiny("flow")).denoiser, rows(3, 5, 3)
    clock = torch.tensor([0.1, 0.5, 0.9])
    said = denoiser(x, clock, condition)
    torch.testing.assert_close(denoiser(x, clock, 7 * condition), said, rtol=1e-3, atol=1e-4)
    assert not torch.isclose(denoiser(x, clock, -condition), said).any(1).all()
    assert not torch.isclose(denoiser(x, clock + 0.01, condition), said).any(1).all()


def test_noise_of_more_numbers_than_the_blocks_have_passes_straight_through() -> None:
    """Only the noise is asked here, 64 numbers; through 16 at most a quarter of its variance passes."""
    generator = tiny("flow", target_width=64)
    optimizer = torch.optim.Adam(generator.parameters(), lr=2e-2)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = generator.loss(torch.zeros(128, 64), torch.ones(128, 3))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-20:]) < 0.5


# Pictures


def pictures(*, items: int = 12, missing: tuple[int, ...] = (2, 5), width: int = 5) -> ContentVectors:
    values = (3 + 2 * np.random.default_rng(0).standard_normal((items + 1, width))).astype(np.float16)
    present = np.ones(items + 1, dtype=bool)
    present[[0, *missing]] = False
    values[~present] = 0
    return ContentVectors(values, present, "", "", "")


def test_pictures_are_standardised_over_the_items_that_have_one() -> None:
    targets = VisualTargets(pictures())
    known = targets.values[targets.present].numpy()
    assert known.shape == (10, 5)
    np.testing.assert_allclose(known.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(known.std(0), 1, rtol=1e-5)
    assert not targets.values[~targets.present].any()
    assert targets.missing == 2
    assert not targets.state_dict()  # frozen, and in no checkpoint


@every_kind
def test_items_without_a_picture_add_nothing(kind: str) -> None:
    generator, targets = awake(tiny(kind)), VisualTargets(pictures())
    items, (condition,) = torch.tensor([1, 2, 3, 5, 0, 7]), rows(6, 3)
    condition.requires_grad_()
    torch.manual_seed(3)
    loss = targets.loss(generator, items, condition)
    loss.backward()
    assert condition.grad is not None
    assert condition.grad.any(1).tolist() == [True, False, True, False, False, True]
    torch.manual_seed(3)
    alone = generator.loss(targets.values[[1, 3, 7]], condition[[0, 2, 5]])
    torch.testing.assert_close(loss, alone)


def test_a_batch_without_pictures_is_a_zero_with_a_gradient() -> None:
    generator, targets = awake(tiny("flow")), VisualTargets(pictures())
    condition = torch.ones(2, 3, requires_grad=True)
    loss = targets.loss(generator, torch.tensor([2, 5]), condition)
    loss.backward()
    assert float(loss.detach()) == 0
    assert condition.grad is not None
    assert not condition.grad.any()


def test_pictures_of_no_item_are_refused() -> None:
    with pytest.raises(StoreError, match=r"no item has a picture.*penchant encode"):
        VisualTargets(pictures(items=3, missing=(1, 2, 3)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 0}, r"width is 0\. Set width to 1"),
        ({"blocks": 0}, r"blocks is 0\. Set blocks to 1"),
        ({"steps": 0}, r"steps is 0\. Set steps to 1 to 1000"),
        ({"steps": 1001}, r"steps is 1001\. Set steps to 1 to 1000"),
    ],
)
def test_impossible_settings_say_what_is_possible(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GeneratorConfig(**wrong)


def test_a_placebo_has_another_items_picture() -> None:
    mine, placebo = (VisualTargets(pictures(missing=(2,)), shuffled) for shuffled in (False, True))
    order = another_item(len(mine.values))
    assert torch.equal(placebo.values, mine.values[order])
    assert torch.equal(placebo.present, mine.present[order])
    assert placebo.missing == mine.missing == 1

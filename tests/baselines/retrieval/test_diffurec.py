"""DiffuRec: its schedules, noising and chain against loops, which positions learn, and answers that repeat."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from penchant.baselines.retrieval.auxiliary import DiffuRecObjective, DiffuRecObjectiveConfig
from penchant.baselines.retrieval.diffurec import DiffuRec, DiffuRecConfig, noise_rates, step_waves
from penchant.data.batch import SequenceBatch
from penchant.errors import ConfigError
from penchant.layers import OpenBlock
from penchant.models import Sizes
from tests.baselines.retrieval.test_bert4rec import block_by_loops, linear, norm
from tests.checkerboard import requests_of

CONFIG = DiffuRecConfig(width=4, heads=2, blocks=1, steps=6, uncertainty=0.3, max_len=5)


@pytest.fixture
def model() -> DiffuRec:
    torch.manual_seed(1)
    return DiffuRec(CONFIG, Sizes(num_items=9)).eval()


def test_the_published_schedule_ends_in_pure_noise() -> None:
    beta = noise_rates("truncated_linear", 32)
    assert beta[0] == pytest.approx(0.013125)
    assert beta[-1] == pytest.approx(0.635)
    np.testing.assert_allclose(np.diff(beta), (0.635 - 0.013125) / 31)
    assert 1e-7 < np.prod(1 - beta) < 1e-5
    # Few steps would pass 1: the end is then the published code's other one.
    assert noise_rates("truncated_linear", 10)[-1] == pytest.approx(0.11)


def test_other_schedules_by_their_definitions() -> None:
    np.testing.assert_allclose(noise_rates("linear", 1000), [0.0001 + (0.02 - 0.0001) * n / 999 for n in range(1000)])
    cosine = noise_rates("cosine", 40)
    for n in range(39):
        kept = [math.cos(((n + i) / 40 + 0.008) / 1.008 * math.pi / 2) ** 2 for i in (0, 1)]
        assert cosine[n] == pytest.approx(1 - kept[1] / kept[0])
    assert cosine[-1] == 0.999


def test_noising_step_by_step_ends_where_one_leap_does(model: DiffuRec) -> None:
    """x_s is reached by s steps of x <- sqrt(1 - beta) x + sqrt(beta) noise: the same mean and variance."""
    beta = noise_rates(CONFIG.schedule, CONFIG.steps)
    mean, variance = 1.0, 0.0
    one, nothing = torch.ones(1, 4), torch.zeros(1, 4)
    for step in range(1, CONFIG.steps + 1):
        mean, variance = math.sqrt(1 - beta[step - 1]) * mean, (1 - beta[step - 1]) * variance + beta[step - 1]
        at = torch.tensor([step])
        assert float(model.noised(one, at, nothing)[0, 0]) == pytest.approx(mean, rel=1e-5)
        assert float(model.noised(nothing, at, one)[0, 0]) ** 2 == pytest.approx(variance, rel=1e-5)


def test_a_step_back_is_bayes_rule(model: DiffuRec) -> None:
    """q(x_{s-1} | x_s, x_0) from the two Gaussians it is the product of."""
    beta = noise_rates(CONFIG.schedule, CONFIG.steps)
    kept = np.cumprod(1 - beta)
    for step in range(2, CONFIG.steps + 1):
        b, before = beta[step - 1], kept[step - 2]
        precision = 1 / (1 - before) + (1 - b) / b  # of x_{s-1} given x_0, and of x_s given x_{s-1}
        expected = [math.sqrt(before) / (1 - before) / precision, math.sqrt(1 - b) / b / precision, precision**-0.5]
        np.testing.assert_allclose(model.posterior[:, step - 1], expected, rtol=1e-4)


@torch.no_grad()
def test_the_estimate_is_the_transformers_state_at_the_last_action(model: DiffuRec) -> None:
    history, step = [3, 9, 1], 4
    x = torch.randn(1, 4)
    weight = torch.randn(1, 3, 4)
    e = norm(model.items.weight.numpy()[history] * 2, model.norm_items)
    frequencies = [1.0, math.exp(-math.log(10_000) / 2)]
    angles = [step * 1000 / 6 * f for f in frequencies]
    waves = np.array([*(math.cos(a) for a in angles), *(math.sin(a) for a in angles)], dtype=np.float32)
    inner = linear(waves, model.step[0])
    told = x.numpy() + linear(inner / (1 + np.exp(-inner)), model.step[2])
    block = model.blocks[0]
    assert isinstance(block, OpenBlock)
    expected = norm(block_by_loops(block, e + weight[0].numpy() * told)[-1], model.norm)
    padded = torch.tensor([[*history, 0, 0]])
    weight = torch.nn.functional.pad(weight, (0, 0, 0, 2), value=9.0)
    found = model.estimate(model.embedded(padded), torch.tensor([3]), x, torch.tensor([step]), weight)
    np.testing.assert_allclose(found[0], expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_served_is_the_chain_back_from_noise(model: DiffuRec) -> None:
    requests = requests_of([3, 9, 1])
    noise = model._noise(requests)[0]
    assert noise.shape == (6, 4)
    beta = noise_rates(CONFIG.schedule, CONFIG.steps)
    kept = np.cumprod(1 - beta)
    x = noise[5]
    embedded = model.embedded(requests.history)
    for step in range(6, 0, -1):
        guess = model.estimate(embedded, requests.lengths, x[None], torch.tensor([step]), CONFIG.uncertainty)[0]
        b, k = beta[step - 1], kept[step - 1]
        before = kept[step - 2] if step > 1 else 1.0
        mean = math.sqrt(before) * b / (1 - k) * guess + math.sqrt(1 - b) * (1 - before) / (1 - k) * x
        x = mean + math.sqrt(b * (1 - before) / (1 - k)) * (noise[step - 2] if step > 1 else 0)
    torch.testing.assert_close(model.user_vectors(requests)[0], x, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_request_gets_the_same_answer_whenever_and_with_whomever(model: DiffuRec) -> None:
    torch.manual_seed(1)
    together = model.user_vectors(requests_of([3, 9, 1], [2], [], padding=2))
    torch.manual_seed(2)
    torch.testing.assert_close(model.user_vectors(requests_of([2]))[0], together[1])
    other = DiffuRec(DiffuRecConfig(**{**vars(CONFIG), "noise_seed": 1}), model.sizes).eval()
    other.load_state_dict(model.state_dict())
    assert not torch.allclose(other.user_vectors(requests_of([2]))[0], together[1])


@torch.no_grad()
def test_noise_is_standard_normal_and_differs_between_requests(model: DiffuRec) -> None:
    histories = [[a, b] for a in range(1, 10) for b in range(1, 10)]
    noise = model._noise(requests_of(*histories))
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.1)
    assert float(noise.std()) == pytest.approx(1.0, abs=0.1)
    assert len(torch.unique(noise[:, 0, 0])) == len(histories)


def test_some_positions_of_each_piece_learn_the_newest_among_them() -> None:
    torch.manual_seed(0)
    history = torch.tensor([[1, 2, 3, 4]] * 300 + [[5, 0, 0, 0]] * 2)
    batch = SequenceBatch(history, torch.where(history > 0, history + 1, 0))
    objective = DiffuRecObjective(DiffuRecObjectiveConfig(positions=3), torch.ones(10).long())
    cut, lengths, targets = objective.cut(batch)
    assert lengths[::3].tolist() == [4] * 300 + [1] * 2
    drawn = torch.bincount(lengths.view(-1, 3)[:300, 1:].flatten(), minlength=5)
    assert drawn[0] == 0
    assert (drawn[1:] - 150).abs().max() < 50
    for row, length, target in zip(cut.tolist(), lengths.tolist(), targets.tolist(), strict=True):
        assert len([i for i in row if i]) == length
        assert row[length - 1] + 1 == target, "nothing of the target or after it is read"


@torch.no_grad()
def test_loss_is_the_cross_entropy_of_estimates_at_drawn_steps(model: DiffuRec) -> None:
    batch = SequenceBatch(torch.tensor([[1, 2], [5, 0]]), torch.tensor([[2, 3], [6, 0]]))
    objective = DiffuRecObjective(DiffuRecObjectiveConfig(positions=1), torch.ones(10).long())
    torch.manual_seed(5)
    found = float(objective(model, batch)["softmax"])
    torch.manual_seed(5)
    torch.rand(2, 0)
    noise, steps = torch.randn(2, 4), torch.randint(1, 7, (2,))
    weight = 0.3 * (1 + torch.randn(2, 2, 4))
    losses = []
    for row, (history, target) in enumerate((([1, 2], 3), ([5], 6))):
        x = model.noised(model.items.weight[[target]] * 2, steps[[row]], noise[[row]])
        requests = requests_of(history)
        part = weight[[row], : len(history)]
        guess = model.estimate(model.embedded(requests.history), requests.lengths, x, steps[[row]], part)
        scores = (model.items.weight[1:] @ guess[0]).double().numpy()
        losses.append(math.log(np.exp(scores).sum()) - scores[target - 1])
    assert found == pytest.approx(np.mean(losses), rel=1e-4)


def test_steps_have_waves_of_their_own_at_any_width() -> None:
    waves = step_waves(torch.arange(8) * 31.25, 5)
    assert waves.shape == (8, 5)
    assert len(torch.unique(waves, dim=0)) == 8


@pytest.mark.parametrize("config", [{"width": 0}, {"steps": 0}, {"embedding_dropout": 1.0}, {"uncertainty": -1.0}])
def test_impossible_sizes_are_refused(config: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(config))):
        DiffuRecConfig(**config)  # pyright: ignore[reportArgumentType]


def test_no_position_is_refused() -> None:
    with pytest.raises(ConfigError, match="positions"):
        DiffuRecObjectiveConfig(positions=0)

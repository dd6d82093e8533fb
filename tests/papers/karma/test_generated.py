"""KARMA's Table 2: what a head on h_t is given, what it leaves alone, and what its vectors depend on."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from penchant.data.batch import SequenceBatches, SequenceDataConfig
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.encoders.backbone import load_backbone
from penchant.errors import ConfigError
from penchant.models import load_model, save_model, sizes_of
from penchant.papers.karma.generated import GeneratedConfig, GeneratedKarma, GeneratedObjective
from penchant.papers.karma.model import Karma, KarmaConfig
from penchant.recipes.karma.build import Beginning, build_karma
from tests.checkerboard import requests_of

HEADS = ("mse", "flow", "ddpm", "edm")


@pytest.fixture(scope="module")
def karma(market: Store, language_folder: Path) -> Karma:
    backbone = load_backbone(str(language_folder), num_layers=2, device="cpu")
    torch.manual_seed(1)
    config = KarmaConfig(backbone=str(language_folder), item_backbone=str(language_folder), width=8)
    return build_karma(config, Beginning(backbone, "x"), market, sizes_of(market)).exported()


def made(karma: Karma, head: str, samples: int = 1) -> GeneratedKarma:
    torch.manual_seed(2)
    sizes = {"head_width": 16, "head_blocks": 1, "head_steps": 4}
    model = GeneratedKarma(GeneratedConfig(**{**asdict(karma.config), **sizes, "head": head}), karma.sizes)
    model.karma.load_state_dict(karma.state_dict())
    model.standardise(torch.arange(karma.num_items + 1).float())
    with torch.no_grad():  # a head begins as 0
        for weight in model.head.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    model.config = replace(model.config, samples=samples)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("head", HEADS)
def test_a_vector_depends_on_its_history_alone(karma: Karma, head: str) -> None:
    model, histories = made(karma, head, samples=3), ([4, 2], [], [3, 9, 1])
    together = model.user_vectors(requests_of(*histories))
    assert not together[1].any()
    assert not model.user_vectors(requests_of([])).any()
    for row in (0, 2):
        alone = model.user_vectors(requests_of(histories[row]))
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)
        assert alone.any()
    assert not torch.allclose(together[0], together[2])


@torch.no_grad()
def test_items_are_karmas_and_targets_are_standardised_as_they_occur(karma: Karma, market: Store) -> None:
    model = made(karma, "flow")
    vectors = model.item_vectors()
    assert torch.equal(vectors, karma.item_vectors())
    drawn = torch.arange(karma.num_items + 1).repeat_interleave(torch.arange(karma.num_items + 1))
    scaled = (vectors[drawn] - model.mean) / model.deviation
    torch.testing.assert_close(scaled.mean(0), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.std(0, unbiased=False), torch.ones(8), atol=1e-3, rtol=0)


@pytest.mark.parametrize("head", HEADS)
def test_the_head_alone_learns_and_learns(karma: Karma, market: Store, head: str) -> None:
    model, objective = made(karma, head), GeneratedObjective()
    model.train()
    assert not any(module.training for module in model.karma.modules())
    batches = SequenceBatches(market, load_split(market, "loo"), SequenceDataConfig(batch_targets=64), 0)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        torch.manual_seed(5)  # one noise: the loss of one question, asked again
        loss = objective(model, batches.batch(0))["head"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    for name, weight in karma.state_dict().items():
        assert torch.equal(model.karma.state_dict()[name], weight)
    assert all(p.grad is None for p in model.karma.parameters())


@torch.no_grad()
@pytest.mark.parametrize("head", HEADS)
def test_it_comes_back_as_saved(karma: Karma, head: str, tmp_path: Path) -> None:
    model = made(karma, head, samples=2)
    save_model(model, tmp_path)
    asked = requests_of([4, 2], [5])
    assert torch.equal(load_model(tmp_path, cls=GeneratedKarma).user_vectors(asked), model.user_vectors(asked))


@torch.no_grad()
def test_the_mean_of_samples_is_one_vector_whatever_is_sampled_beside(karma: Karma) -> None:
    asked = requests_of([4, 2, 7])
    many = [made(karma, "flow", samples=n).user_vectors(asked) for n in (1, 2)]
    assert not torch.equal(*many)
    again = made(karma, "mse", samples=7).user_vectors(asked)
    assert torch.equal(again, made(karma, "mse").user_vectors(asked))


def test_no_sample_is_refused(karma: Karma) -> None:
    with pytest.raises(ConfigError, match="samples is 0"):
        GeneratedConfig(**{**asdict(karma.config), "samples": 0})

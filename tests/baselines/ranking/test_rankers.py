"""Mean pooling and DIN against loops, and what no ranker must depend on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from penchant.baselines.ranking.bst import BST, BSTConfig
from penchant.baselines.ranking.din import DIN, ActivationUnit
from penchant.baselines.ranking.frnet import FRNet
from penchant.baselines.ranking.gru4rec import GRU4RecRanker
from penchant.baselines.ranking.mean_pooling import MeanPooling
from penchant.baselines.ranking.objective import listwise, pointwise
from penchant.baselines.ranking.parts import RankerConfig
from penchant.baselines.ranking.wide_deep import WideDeep
from penchant.funnel.features import Features, RankInputs
from penchant.funnel.prerank import LightTwoTower, LightTwoTowerConfig
from penchant.models import Sizes, load_model, save_model
from penchant.recipes.ranking import fit_inputs
from tests.rank_inputs import labelled, padded, some_inputs, taken

SIZES = Sizes(num_items=20, num_categories=4, num_features=3)
CONFIG = RankerConfig(width=6, category_width=2, hidden=16, hidden_second=8, attention=5)


def mean_pooling() -> MeanPooling:
    return MeanPooling(CONFIG, SIZES)


def din() -> DIN:
    return DIN(CONFIG, SIZES)


def light() -> LightTwoTower:
    return LightTwoTower(LightTwoTowerConfig(width=6, recent=4), SIZES)


def wide_deep() -> WideDeep:
    return WideDeep(CONFIG, SIZES)


def frnet() -> FRNet:
    return FRNet(CONFIG, SIZES)


def gru4rec() -> GRU4RecRanker:
    return GRU4RecRanker(CONFIG, SIZES)


def bst() -> BST:
    return BST(BSTConfig(**asdict(CONFIG), heads=2, positions=3), SIZES)


Ranker = MeanPooling | DIN | LightTwoTower | WideDeep | FRNet | GRU4RecRanker | BST
Build = Callable[[], Ranker]


def made(build: Build) -> Ranker:
    """A model in evaluation mode with categories and a scale, all of its weights drawn at random."""
    torch.manual_seed(0)
    model = build()
    features = Features(torch.zeros(21), torch.arange(21) % 5)
    fit_inputs(model, features, [some_inputs(seed=7)])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
        for table in tables_of(model):
            table.weight[0] = 0
    return model.eval()


def tables_of(model: nn.Module) -> list[nn.Embedding]:
    """The tables with a row of padding."""
    return [m for m in model.modules() if isinstance(m, nn.Embedding) and m.padding_idx == 0]


READERS = [mean_pooling, din, light, gru4rec, bst]
MODELS = pytest.mark.parametrize("build", [*READERS, wide_deep, frnet])


def test_activation_unit_is_the_papers_network_pair_by_pair() -> None:
    torch.manual_seed(1)
    unit, (batch, length, k, width) = ActivationUnit(3, 5), (2, 4, 3, 3)
    history, candidates = torch.randn(batch, length, width), torch.randn(batch, k, width)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    got = unit(history, candidates, mask).detach().numpy()
    w, b = unit.inner.weight.detach().numpy(), unit.inner.bias.detach().numpy()
    out, c, slope = unit.out.weight.detach().numpy()[0], float(unit.out.bias.detach()), float(unit.act.weight.detach())
    for i in range(batch):
        for j in range(k):
            for s in range(length):
                h, e = history[i, s].numpy(), candidates[i, j].numpy()
                x = w @ np.concatenate([h, e, h - e, h * e]) + b
                weight = out @ np.where(x > 0, x, slope * x) + c if mask[i, s] else 0.0
                assert got[i, j, s] == pytest.approx(weight, abs=1e-5)


def test_din_sums_the_history_under_its_weights() -> None:
    model, inputs = made(din), some_inputs()
    assert isinstance(model, DIN)
    got = model(inputs).detach()
    for b in range(len(inputs.items)):
        history = [int(i) for i in inputs.requests.history[b] if i]
        for k in range(inputs.items.shape[1]):
            e = model.body.embed(inputs.items[b, k])
            v = torch.zeros_like(e)
            for item in history:
                h = model.body.embed(torch.tensor(item))
                x = model.unit.inner(torch.cat([h, e, h - e, h * e]))
                v = v + model.unit.out(F.prelu(x, model.unit.act.weight)) * h
            scaled = (inputs.features[b, k] - model.body.scale.mean) / model.body.scale.std
            logit = model.body.mlp(torch.cat([v, e, v * e, scaled.clamp(-5, 5)]))
            assert got[b, k].item() == pytest.approx(logit.item(), abs=1e-4)


class Uniform(nn.Module):
    """Weight 1 / length at real actions."""

    def forward(self, history: Tensor, candidates: Tensor, mask: Tensor) -> Tensor:
        weights = mask / mask.sum(1, keepdim=True).clamp(min=1)
        return weights[:, None].expand(-1, candidates.shape[1], -1)


def test_mean_pooling_is_din_with_uniform_weights() -> None:
    pooling, attending, inputs = made(mean_pooling), made(din), some_inputs()
    assert isinstance(pooling, MeanPooling)
    assert isinstance(attending, DIN)
    attending.body.load_state_dict(pooling.body.state_dict())
    assert not torch.allclose(attending(inputs), pooling(inputs))
    attending.unit = Uniform()  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(attending(inputs), pooling(inputs))


def test_rankers_differ_in_what_reads_the_history_alone() -> None:
    def count(*models: nn.Module) -> int:
        return sum(p.numel() for model in models for p in model.parameters())

    shared = count(mean_pooling())
    assert count(din()) == shared + count(din().unit)
    assert count(gru4rec()) == shared + count(gru4rec().gru)
    assert count(bst()) == shared + count(bst().position, bst().block)


@MODELS
def test_padding_changes_no_logit(build: Build) -> None:
    model, inputs = made(build), some_inputs()
    torch.testing.assert_close(model(padded(inputs))[:, :4], model(inputs))


@MODELS
def test_a_history_of_padding_alone_is_no_history(build: Build) -> None:
    model, inputs = made(build), some_inputs(lengths=(0, 0))
    nothing = torch.zeros(2, 3, dtype=torch.int64)
    padded = replace(inputs, requests=replace(inputs.requests, history=nothing, history_times_ms=nothing))
    torch.testing.assert_close(model(padded), model(inputs))


@MODELS
def test_a_candidates_logit_does_not_depend_on_the_others(build: Build) -> None:
    model, inputs = made(build), some_inputs()
    order = torch.tensor([[2, 0, 3, 1]]).expand(4, -1)
    torch.testing.assert_close(model(taken(inputs, order)), model(inputs).gather(1, order))


@MODELS
def test_an_item_shown_twice_or_an_empty_slot_between_changes_no_logit(build: Build) -> None:
    model, inputs = made(build), some_inputs()
    order = torch.tensor([[1, 0, 1, 3]]).expand(4, -1)
    several = taken(inputs, order)
    several.items[:, 1], several.features[:, 1] = 0, 0
    got, wanted = model(several), model(inputs).gather(1, order)
    assert torch.isfinite(got).all()
    torch.testing.assert_close(got[:, [0, 2, 3]], wanted[:, [0, 2, 3]])


@MODELS
def test_a_batch_without_any_history_or_candidate_is_scored(build: Build) -> None:
    model = made(build)
    assert torch.isfinite(model(some_inputs(lengths=(0, 0)))).all()
    assert model(taken(some_inputs(), torch.zeros(4, 0).long())).shape == (4, 0)


@MODELS
def test_a_saved_model_gives_the_same_logits(build: Build, tmp_path: Path) -> None:
    model, inputs = made(build), some_inputs()
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert type(loaded) is type(model)
    assert torch.equal(loaded(inputs), model(inputs))


def with_other_history(inputs: RankInputs) -> RankInputs:
    """The same candidates and features after other actions."""
    history = inputs.requests.history
    return replace(inputs, requests=replace(inputs.requests, history=history % 20 + 1 * (history > 0)))


@pytest.mark.parametrize("build", READERS)
def test_the_history_reaches_the_logit(build: Build) -> None:
    model, inputs = made(build), some_inputs()
    assert not torch.allclose(model(with_other_history(inputs))[0], model(inputs)[0])


@MODELS
def test_category_and_features_reach_the_logit(build: Build) -> None:
    model, inputs = made(build), some_inputs()
    logits = model(inputs)
    assert not torch.allclose(model(replace(inputs, features=inputs.features + 0.5)), logits)
    buffer = next(b for name, b in model.named_buffers() if "categor" in name)
    buffer[1:] = buffer[1:] % 4 + 1
    assert not torch.allclose(model(inputs), logits)


def test_pointwise_is_the_mean_binary_cross_entropy_of_real_impressions() -> None:
    model, batch = made(din), labelled(some_inputs())
    x = model(batch.inputs).detach().numpy().astype(np.float64)
    y, terms = batch.labels.numpy(), []
    for b, k in zip(*np.nonzero(batch.inputs.items.numpy()), strict=True):
        p = 1 / (1 + np.exp(-x[b, k]))
        terms.append(-(y[b, k] * np.log(p) + (1 - y[b, k]) * np.log(1 - p)))
    assert len(terms) == batch.num_targets == 14
    assert pointwise(model, batch)["click"].item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_listwise_is_the_softmax_cross_entropy_among_real_candidates() -> None:
    model, batch = made(light), labelled(some_inputs())
    x = np.exp(model(batch.inputs).detach().numpy().astype(np.float64)) * (batch.inputs.items.numpy() > 0)
    chosen = x[np.arange(4), [0, 2, 1, 3]]
    assert listwise(model, batch)["target"].item() == pytest.approx(-np.log(chosen / x.sum(1)).mean(), rel=1e-5)


def test_listwise_refuses_requests_without_exactly_one_click() -> None:
    model, batch = made(light), labelled(some_inputs())
    for labels in (torch.zeros(4, 4), torch.ones(4, 4)):
        with pytest.raises(ValueError, match="exactly one"):
            listwise(model, replace(batch, labels=labels))


@MODELS
@pytest.mark.parametrize("objective", [pointwise, listwise])
def test_one_batch_can_be_learned_by_heart(build: Build, objective: Callable) -> None:
    torch.manual_seed(0)
    model, batch = build().eval(), labelled(some_inputs())  # no dropout
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    loss = torch.zeros(())
    for _ in range(150):
        loss = torch.stack(list(objective(model, batch).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    ranked = model(batch.inputs).masked_fill(~batch.mask, -torch.inf)
    assert ranked.argmax(1).tolist() == [0, 2, 1, 3]


@MODELS
def test_padding_gets_no_gradient(build: Build) -> None:
    model, batch = made(build), labelled(some_inputs())
    pointwise(model, batch)["click"].backward()
    assert len(tables_of(model)) >= 2
    for table in tables_of(model):
        assert table.weight.grad is not None
        assert not table.weight.grad[0].any()
        assert table.weight.grad.any()

"""Wide & Deep, FRNet, GRU4Rec and BST against loops in float64, and what each of them reads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from penchant.baselines.ranking.bst import BST
from penchant.baselines.ranking.frnet import FRNet, InformationExtraction
from penchant.baselines.ranking.gru4rec import GRU4RecRanker
from penchant.baselines.ranking.objective import pointwise
from penchant.baselines.ranking.parts import ItemEmbedding, RankerBody
from penchant.baselines.ranking.wide_deep import CROSSES, CategoryCross, WideDeep
from penchant.funnel.features import FeatureScale, RankInputs
from tests.baselines.ranking.test_rankers import (
    bst,
    din,
    frnet,
    gru4rec,
    made,
    mean_pooling,
    wide_deep,
    with_other_history,
)
from tests.rank_inputs import Slot, labelled, slots, some_inputs

LENGTHS = (5, 0, 3, 1)


def of(x: torch.Tensor | nn.Module) -> np.ndarray:
    """The numbers of a tensor, or of a module's weight."""
    return (x if isinstance(x, torch.Tensor) else x.get_parameter("weight")).detach().numpy()


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum()


def affine(layer: nn.Module, x: np.ndarray) -> np.ndarray:
    assert isinstance(layer, nn.Linear)
    return of(layer.weight) @ x + (of(layer.bias) if layer.bias is not None else 0)


def leaky(x: np.ndarray, slope: float) -> np.ndarray:
    return np.where(x > 0, x, slope * x)


def network(layers: nn.Sequential, x: np.ndarray) -> float:
    """The last network: linear layers with GELU between them."""
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    assert len(linear) == 3
    for i, layer in enumerate(linear):
        x = affine(layer, x if i == 0 else x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2)
    return x.item()


def embedded(embed: ItemEmbedding, item: int) -> np.ndarray:
    return np.concatenate([of(embed.item)[item], of(embed.category)[embed.category_of[item]]])


def scaled(scale: FeatureScale, x: np.ndarray) -> np.ndarray:
    return np.clip((x - of(scale.mean)) / of(scale.std), -5, 5)


def from_body(body: RankerBody, pooled: np.ndarray, e: np.ndarray, features: np.ndarray) -> float:
    return network(body.mlp, np.concatenate([pooled, e, pooled * e, scaled(body.scale, features)]))


def in_float64(model: nn.Module, inputs: RankInputs) -> Iterator[Slot]:
    """Every candidate as `model`, now in float64, scores it."""
    return slots(model.double(), replace(inputs, features=inputs.features.double()))


def test_wide_deep_adds_a_linear_part_with_a_crossed_pair_to_a_network() -> None:
    model = made(wide_deep)
    assert isinstance(model, WideDeep)
    crossed = 0
    for slot in in_float64(model, some_inputs(lengths=LENGTHS)):
        category = int(model.embed.category_of[slot.item])
        last = int(model.embed.category_of[slot.history[-1]]) if slot.history else 0
        x = scaled(model.scale, slot.features)
        wide = of(model.first_order.item)[slot.item, 0] + of(model.first_order.category)[category, 0]
        wide += affine(model.first_order.features, x)[0]
        if last and category:
            wide += of(model.cross.table)[1 + (last - 1) * 4 + category - 1, 0]  # four categories
            crossed += 1
        deep = network(model.mlp, np.concatenate([embedded(model.embed, slot.item), x]))
        assert slot.logit == pytest.approx(wide + deep, abs=1e-9)
    assert 0 < crossed < 16


def extracted(unit: InformationExtraction, fields: np.ndarray) -> np.ndarray:
    """O_vec * O_bit, [f, D], field by field."""
    queries, keys, values = ([affine(w, e) for e in fields] for w in (unit.query, unit.key, unit.value))
    first, slope, _, second, slope_second = unit.context
    hidden = leaky(affine(first, np.concatenate(list(fields))), of(slope).item())
    context = leaky(affine(second, hidden), of(slope_second).item())
    rows = []
    for q in queries:
        shares = softmax(np.array([q @ k for k in keys]))
        mixed = sum(share * v for share, v in zip(shares, values, strict=True))
        rows.append(affine(unit.project, np.asarray(mixed)) * context)
    return np.stack(rows)


def test_frnet_is_a_factorization_machine_of_refined_fields() -> None:
    model = made(frnet)
    assert isinstance(model, FRNet)
    for slot in in_float64(model, some_inputs(lengths=LENGTHS)):
        category = int(model.embed.category_of[slot.item])
        x = scaled(model.scale, slot.features)
        vectors = [of(model.embed.item)[slot.item], of(model.embed.category)[category]]
        fields = np.stack([*vectors, *(value * row for value, row in zip(x, of(model.dense), strict=True))])
        gate = sigmoid(extracted(model.gate, fields))
        refined = fields * gate + extracted(model.complement, fields) * (1 - gate)
        pairs = sum(refined[i] @ refined[j] for i in range(len(refined)) for j in range(i))
        linear = of(model.first_order.item)[slot.item, 0] + of(model.first_order.category)[category, 0]
        linear += affine(model.first_order.features, x)[0]
        assert slot.logit == pytest.approx(linear + pairs, abs=1e-9)


def test_gru4rec_reads_the_state_after_the_last_action() -> None:
    model = made(gru4rec)
    assert isinstance(model, GRU4RecRanker)
    names = ("weight_ih_l0", "bias_ih_l0", "weight_hh_l0", "bias_hh_l0")
    for slot in in_float64(model, some_inputs(lengths=LENGTHS)):
        w, b, u, c = (of(model.gru.get_parameter(name)) for name in names)
        state = np.zeros(8)
        for item in slot.history:
            r_x, z_x, n_x = np.split(w @ embedded(model.body.embed, item) + b, 3)
            r_h, z_h, n_h = np.split(u @ state + c, 3)
            reset, update = sigmoid(r_x + r_h), sigmoid(z_x + z_h)
            state = (1 - update) * np.tanh(n_x + reset * n_h) + update * state
        e = embedded(model.body.embed, slot.item)
        assert slot.logit == pytest.approx(from_body(model.body, state, e, slot.features), abs=1e-9)


def normed(norm: nn.LayerNorm, x: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / np.sqrt(x.var() + norm.eps) * of(norm.weight) + of(norm.bias)


def block(model: BST, sequence: list[np.ndarray]) -> list[np.ndarray]:
    """The paper's block over a whole sequence, each position attending to all of them."""
    unit, heads, width = model.block, model.config.heads, len(sequence[0])
    projected = [np.split(affine(unit.qkv, x), 3) for x in sequence]
    outputs = []
    for x, (q, _, _) in zip(sequence, projected, strict=True):
        mixed = []
        for head in np.split(np.arange(width), heads):
            shares = softmax(np.array([q[head] @ k[head] for _, k, _ in projected]) / math.sqrt(width / heads))
            mixed.append(sum(share * v[head] for share, (_, _, v) in zip(shares, projected, strict=True)))
        s = normed(unit.norm_attention, x + affine(unit.out, np.concatenate(mixed)))
        first, _, second = unit.feed_forward
        outputs.append(normed(unit.norm_feed_forward, s + affine(second, leaky(affine(first, s), 0.01))))
    return outputs


def test_bst_is_a_block_over_the_history_and_the_candidate() -> None:
    model = made(bst)
    assert isinstance(model, BST)
    for slot in in_float64(model, some_inputs(lengths=LENGTHS)):
        places = [min(len(slot.history) - s, 3) + 1 for s in range(len(slot.history))] + [1]
        items = [*slot.history, slot.item]
        sequence = [
            embedded(model.body.embed, i) + of(model.position)[place] for i, place in zip(items, places, strict=True)
        ]
        *actions, e = block(model, sequence)
        mean = np.mean(actions, axis=0) if actions else np.zeros(8)
        assert slot.logit == pytest.approx(from_body(model.body, mean, e, slot.features), abs=1e-9)


def test_a_candidate_that_outweighs_every_action_is_mended_for_without_overflow() -> None:
    model, inputs = made(bst), some_inputs(lengths=LENGTHS)
    assert isinstance(model, BST)
    with torch.no_grad():
        model.block.qkv.weight.mul_(200)
    logits = model(inputs)
    logits.sum().backward()
    assert torch.isfinite(logits).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def swapped(inputs: RankInputs, first: int, second: int) -> RankInputs:
    """The history with two of its places changed over."""
    order = list(range(inputs.requests.history.shape[1]))
    order[first], order[second] = order[second], order[first]
    return replace(inputs, requests=replace(inputs.requests, history=inputs.requests.history[:, order]))


def test_only_gru4rec_and_bst_read_the_order_of_the_history() -> None:
    inputs = some_inputs(lengths=(5, 5))
    other = swapped(inputs, 2, 4)
    for build in (mean_pooling, din):
        model = made(build)
        torch.testing.assert_close(model(other), model(inputs))
    for build in (gru4rec, bst):
        model = made(build)
        assert not torch.allclose(model(other), model(inputs), atol=1e-3)


def test_actions_past_the_last_position_have_no_order() -> None:
    model, inputs = made(bst), some_inputs(lengths=(5, 5))  # of five actions the first three share the place
    torch.testing.assert_close(model(swapped(inputs, 0, 2)), model(inputs))
    assert not torch.allclose(model(swapped(inputs, 2, 3)), model(inputs), atol=1e-3)


def test_frnet_reads_no_behaviour_sequence() -> None:
    model, inputs = made(frnet), some_inputs()
    assert torch.equal(model(with_other_history(inputs)), model(inputs))


def test_wide_deep_reads_the_last_actions_category_alone() -> None:
    model, inputs = made(wide_deep), some_inputs(lengths=(5, 5))
    logits, history = model(inputs), inputs.requests.history

    def after(last: torch.Tensor) -> torch.Tensor:
        changed = torch.cat([history[:, :-1] % 20 + 1, last], dim=1)
        return model(replace(inputs, requests=replace(inputs.requests, history=changed)))

    assert torch.equal(after(history[:, -1:]), logits)
    assert torch.equal(after((history[:, -1:] + 4) % 20 + 1), logits), "five items on, the category is the same"
    assert not torch.allclose(after(history[:, -1:] % 20 + 1), logits)


def test_each_pair_of_categories_has_a_weight_of_its_own_while_they_are_few() -> None:
    cross = CategoryCross(7)
    with torch.no_grad():
        cross.table.weight[:, 0] = torch.arange(50)
    every = torch.arange(8)
    rows = cross(every[:, None], every.expand(8, -1)).long()
    assert sorted(rows[1:, 1:].flatten().tolist()) == list(range(1, 50))
    assert not rows[0].any()
    assert not rows[:, 0].any()


def test_many_categories_share_a_bounded_number_of_weights() -> None:
    cross = CategoryCross(1500)
    with torch.no_grad():
        cross.table.weight[:, 0] = torch.arange(CROSSES + 1)
    every = torch.arange(1, 1501)
    rows = cross(every[:, None], every.expand(1500, -1)).long()
    assert rows.min() == 1
    assert rows.max() == CROSSES
    times = torch.bincount(rows.flatten())[1:]
    assert times.max() - times.min() <= 1, "the pairs are spread evenly"
    assert len(rows[:, 700].unique()) == len(rows[700].unique()) == 1500, "no two that share a category share a weight"


@pytest.mark.parametrize("build", [gru4rec, bst, wide_deep, frnet])
def test_a_step_against_the_gradient_lowers_the_loss(build: object) -> None:
    model, batch = made(build), labelled(some_inputs())  # pyright: ignore[reportArgumentType]
    before = pointwise(model, batch)["click"]
    before.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad
    assert pointwise(model, batch)["click"] < before

"""Optimizers against the formulas they state."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from penchant.errors import ConfigError
from penchant.training.optim import OptimConfig, RowwiseAdagrad, build_optimizers, rate, set_rate


def test_rowwise_adagrad_is_its_formula_and_leaves_other_rows_alone() -> None:
    table = nn.Embedding(6, 3, sparse=True)
    weights, total = table.weight.detach().numpy().copy(), np.zeros(6)
    optimizer = RowwiseAdagrad(table.parameters(), lr=0.1)
    for step in range(4):
        rows = torch.tensor([1, 4, 1 + step])
        optimizer.zero_grad()
        (table(rows) ** 2).sum().backward()
        optimizer.step()
        gradient = np.zeros_like(weights)
        for r in rows.tolist():
            gradient[r] += 2 * weights[r]
        for r in set(rows.tolist()):
            total[r] += (gradient[r] ** 2).mean()
            weights[r] -= 0.1 * gradient[r] / (np.sqrt(total[r]) + 1e-8)
    np.testing.assert_allclose(table.weight.detach().numpy(), weights, rtol=1e-5)


def test_rate_rises_then_falls_to_its_final_share() -> None:
    config = OptimConfig(warmup_share=0.1, final_share=0.05)
    rates = [rate(s, 100, config) for s in range(101)]
    assert rates[9] == 1.0
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert rates[100] == pytest.approx(0.05)


def test_only_matrices_decay_and_sparse_tables_have_their_own_optimizer() -> None:
    model = nn.ModuleDict(
        {"table": nn.Embedding(5, 2), "big": nn.Embedding(5, 2, sparse=True), "dense": nn.Linear(2, 2)}
    )
    adam, rowwise = build_optimizers(model, OptimConfig(weight_decay=0.1))
    assert isinstance(rowwise, RowwiseAdagrad)
    decayed = {id(p) for g in adam.param_groups if g["weight_decay"] for p in g["params"]}
    dense = model["dense"]
    assert isinstance(dense, nn.Linear)
    assert decayed == {id(dense.weight)}


def test_a_pretrained_parameter_learns_at_its_share_of_the_rate() -> None:
    model = nn.Linear(3, 2)
    model.weight.lr_share = 0.2  # pyright: ignore[reportAttributeAccessIssue]
    optimizers = build_optimizers(model, OptimConfig(lr=0.1))
    set_rate(optimizers, 0.5, OptimConfig(lr=0.1))
    rates = {p.shape: group["lr"] for group in optimizers[0].param_groups for p in group["params"]}
    assert rates == {model.weight.shape: pytest.approx(0.01), model.bias.shape: pytest.approx(0.05)}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", 0.0),
        ("lr", float("nan")),
        ("sparse_lr", -1.0),
        ("betas", (0.9, 1.0)),
        ("weight_decay", -0.1),
        ("warmup_share", 1.1),
        ("final_share", -0.1),
        ("clip", -1.0),
    ],
)
def test_impossible_setting_is_refused_by_name_and_value(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"optim\.{name} is {re.escape(str(value))}\. Set {name} to "):
        replace(OptimConfig(), **{name: value})


def test_settings_at_the_border_of_the_allowed_are_taken() -> None:
    OptimConfig(betas=(0.0, 0.0), weight_decay=0.0, warmup_share=1.0, final_share=0.0, clip=0.0)

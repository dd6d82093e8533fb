"""Optimizers and the learning rate: AdamW for what is dense, row-wise Adagrad for tables with sparse gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from penchant.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay."""

    lr: float = 1e-3
    """Highest learning rate."""
    sparse_lr: float = 0.05
    """Learning rate of row-wise Adagrad (tables with sparse gradients: catalogues of 100,000 items or more)."""
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    """On matrices alone: never on embeddings, biases or norms."""
    warmup_share: float = 0.05
    """Share of the steps over which the rate rises."""
    final_share: float = 0.05
    """What the rate falls towards, as a share of the highest."""
    clip: float = 1.0
    """Largest norm of the dense gradient; 0 = no clipping."""

    def __post_init__(self) -> None:
        allowed = {
            "lr": (0 < self.lr < math.inf, "above 0"),
            "sparse_lr": (0 < self.sparse_lr < math.inf, "above 0"),
            "betas": (all(0 <= beta < 1 for beta in self.betas), "two numbers of 0 or more, each below 1"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "0 or more"),
            "warmup_share": (0 <= self.warmup_share <= 1, "0 to 1"),
            "final_share": (0 <= self.final_share <= 1, "0 to 1"),
            "clip": (self.clip >= 0, "0 or more"),
        }
        for name, (holds, needed) in allowed.items():
            if not holds:
                raise ConfigError(f"optim.{name} is {getattr(self, name)}", fix=f"Set {name} to {needed}.")


EPS = 1e-8
"""Keeps a row's first step finite."""


class RowwiseAdagrad(torch.optim.Optimizer):
    """Adagrad with one accumulator a row, touching only the rows that a sparse gradient names.

    a_r += mean_d g_rd^2;  w_r -= lr * g_r / (sqrt(a_r) + eps)
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(params, {"lr": lr})
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["sum"] = torch.zeros(len(p), device=p.device)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = p.grad.coalesce() if p.grad.is_sparse else p.grad.to_sparse(1)
                rows, values = grad.indices()[0], grad.values()
                total: Tensor = self.state[p]["sum"]
                total[rows] += values.pow(2).mean(1)
                p.index_add_(0, rows, values / (total[rows].sqrt() + EPS)[:, None], alpha=-group["lr"])


def build_optimizers(model: nn.Module, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """One optimizer for dense parameters and one for sparse tables, where there are any.

    A parameter with an attribute `lr_share` learns at that share of the rate: pretrained ones beside new ones.
    """
    sparse = {m.weight for m in model.modules() if isinstance(m, nn.Embedding) and m.sparse}
    tables = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)} - sparse
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for p in model.parameters():
        if p.requires_grad and p not in sparse:
            decays = p.ndim >= 2 and p not in tables
            groups.setdefault((getattr(p, "lr_share", 1.0), not decays), []).append(p)
    dense = [
        {"params": params, "weight_decay": 0.0 if plain else config.weight_decay, "lr_share": share}
        for (share, plain), params in sorted(groups.items(), key=lambda group: group[0])
    ]
    optimizers: list[torch.optim.Optimizer] = []
    if dense:
        optimizers.append(torch.optim.AdamW(dense, lr=config.lr, betas=config.betas, fused=True))
    if sparse:
        optimizers.append(RowwiseAdagrad([p for p in model.parameters() if p in sparse], lr=config.sparse_lr))
    return optimizers


def rate(step: int, steps: int, config: OptimConfig) -> float:
    """Share of the highest learning rate at a step: linear warm-up, then a cosine down to `final_share`."""
    warmup = max(1, round(config.warmup_share * steps))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return config.final_share + (1 - config.final_share) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_rate(optimizers: list[torch.optim.Optimizer], share: float, config: OptimConfig) -> None:
    """Set every group's rate to `share` of its highest."""
    for optimizer in optimizers:
        highest = config.sparse_lr if isinstance(optimizer, RowwiseAdagrad) else config.lr
        for group in optimizer.param_groups:
            group["lr"] = highest * share * group.get("lr_share", 1.0)


def optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Every tensor of the optimizers' state under a flat name, for a checkpoint."""
    return {
        f"{o}.{p}.{name}": value
        for o, optimizer in enumerate(optimizers)
        for p, entries in optimizer.state_dict()["state"].items()
        for name, value in entries.items()
    }


def load_optimizer_tensors(optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    """The reverse of `optimizer_tensors`."""
    for o, optimizer in enumerate(optimizers):
        state: dict[str, Any] = optimizer.state_dict()
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            owner, parameter, name = key.split(".", 2)
            if int(owner) == o:
                entries.setdefault(int(parameter), {})[name] = value
        optimizer.load_state_dict({**state, "state": entries})

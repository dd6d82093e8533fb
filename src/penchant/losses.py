"""Losses as pure functions of vectors or logits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

CHUNK_ELEMENTS = 2**21
"""Logits held at once by `full_softmax` (8 MB in float32): small enough to stay in the processor's cache."""


class _FusedSoftmax(torch.autograd.Function):
    """Cross-entropy of hidden @ items.T whose logits never exist all at once.

    The gradient of a row needs only that row's logits, so it is taken while they are there: three products a chunk and
    no second pass over [N, I] in the backward step.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, items: Tensor, targets: Tensor) -> Tensor:
        count = len(hidden)
        rows = max(1, CHUNK_ELEMENTS // len(items))
        total = hidden.new_zeros(())
        grad_hidden, grad_items = torch.empty_like(hidden), torch.zeros_like(items)
        for start in range(0, count, rows):
            h, t = hidden[start : start + rows], targets[start : start + rows, None]
            logits = h @ items.T
            logits[:, 0] = -torch.inf  # padding is no item
            right = logits.gather(1, t)
            top = logits.amax(1, keepdim=True)
            probs = logits.sub_(top).exp_()
            mass = probs.sum(1, keepdim=True)
            total += (mass.log() + top - right).sum()
            grad = probs.div_(mass * count)
            grad.scatter_add_(1, t, torch.full_like(right, -1.0 / count))
            torch.mm(grad, items, out=grad_hidden[start : start + rows])
            grad_items.addmm_(grad.T, h)
        ctx.save_for_backward(grad_hidden, grad_items)
        return total / count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_hidden, grad_items = ctx.saved_tensors
        return grad_hidden * grads[0], grad_items * grads[0], None


def full_softmax(
    hidden: Float[Tensor, "N D"], items: Float[Tensor, "I D"], targets: Int[Tensor, " N"]
) -> Float[Tensor, ""]:
    """Cross-entropy of each target against the whole catalogue; row 0 of `items` is padding and no candidate.

    -mean_n log softmax_i(hidden_n . items_i)[targets_n], in nats, in float32 at least whatever the autocast.
    """
    wide = torch.promote_types(torch.float32, torch.promote_types(hidden.dtype, items.dtype))
    with torch.autocast(hidden.device.type, enabled=False):
        loss: Tensor = _FusedSoftmax.apply(hidden.to(wide), items.to(wide), targets)  # pyright: ignore[reportAssignmentType]
    return loss


def sampled_softmax(
    hidden: Float[Tensor, "N D"],
    candidates: Float[Tensor, "C D"],
    log_inclusion: Float[Tensor, " C"],
    target_index: Int[Tensor, " N"],
) -> Float[Tensor, ""]:
    """Cross-entropy against a sample of distinct items, corrected for how likely each was to be in it (logQ).

    Each candidate's logit is lowered by the log of its probability to be in the sample, so that the sum of exponentials
    estimates the whole catalogue's without bias. The target's own is not lowered: it is there with certainty.

    Args:
        candidates: vectors of distinct items, every target among them.
        log_inclusion: log probability that an item is in the sample; at most 0.
        target_index: each target's row in `candidates`.
    Returns: mean in nats, in float32 at least whatever the autocast.
    """
    wide = torch.promote_types(torch.float32, torch.promote_types(hidden.dtype, candidates.dtype))
    with torch.autocast(hidden.device.type, enabled=False):
        logits = hidden.to(wide) @ candidates.to(wide).T
    right = logits.gather(1, target_index[:, None])
    corrected = (logits - log_inclusion).scatter(1, target_index[:, None], right)
    return F.cross_entropy(corrected, target_index)


def sampled_binary(
    hidden: Float[Tensor, "N D"], right: Float[Tensor, "N D"], wrong: Float[Tensor, "N K D"]
) -> Float[Tensor, ""]:
    """Binary cross-entropy of the target and K other items: mean of -log s(h . right) - sum_k log(1 - s(h . wrong_k)).

    s is the logistic function. Returns: mean in nats.
    """
    missed = F.softplus(-(hidden * right).sum(-1))
    taken = F.softplus((wrong @ hidden[..., None])[..., 0]).sum(-1)
    return (missed + taken).mean()


def two_view_infonce(
    first: Float[Tensor, "B D"], second: Float[Tensor, "B D"], temperature: float
) -> Float[Tensor, ""]:
    """Each row must find its other view among all other rows of both: mean of -log softmax(cosines / temperature).

    Returns: mean of 2 B rows in nats (NT-Xent); 0 for a single row.
    """
    both = F.normalize(torch.cat([first, second]), dim=-1)
    logits = (both @ both.T / temperature).fill_diagonal_(-torch.inf)
    place = torch.arange(len(both), device=both.device)
    return F.cross_entropy(logits, place.roll(len(first)))

"""What the models of several vectors a user share: scores, and the routing of actions to interests."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from penchant.data.history import Requests
from penchant.errors import ConfigError
from penchant.layers import CategorisedItems, Dropout, item_embedding
from penchant.models import Sizes


class MultiInterest(nn.Module, ABC):
    """K vectors a user; an item's score is the largest of its products with them, f(u, i) = max_k v_k . e_i.

    ComiRec's f in its aggregation module (section 3.3); MIND serves the same way (section 3.1).
    """

    def __init__(self, width: int, max_len: int, dropout: float, sizes: Sizes, *, categories: bool = False) -> None:
        super().__init__()
        self.sizes, self.num_items, self.max_len = sizes, sizes.num_items, max_len
        self.items = items_of(sizes, width, categories)
        self.dropout = Dropout(dropout)

    @abstractmethod
    def interests(self, history: Int[Tensor, "B S"]) -> tuple[Float[Tensor, "B K D"], Bool[Tensor, "B K"]]:
        """The vectors, and which of them there are: none without any action. S is at most `max_len`."""

    def interest_vectors(self, requests: Requests) -> tuple[Float[Tensor, "B K D"], Bool[Tensor, "B K"]]:
        """The vectors a server searches with, zero where there is none, and which of them there are."""
        vectors, real = self.interests(requests.last(self.max_len).history)
        return vectors * real[..., None], real

    def score_items(self, requests: Requests) -> Float[Tensor, "B I"]:
        """The best of an item's products with the user's vectors; -inf at padding, and for a user without any."""
        return best_products(*self.interest_vectors(requests), self.items.weight)

    def item_vectors(self) -> Float[Tensor, "I D"]:
        return self.items.weight

    def embed_items(self, items: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """Vectors of some items, as the softmax needs them."""
        return self.items(items)


def items_of(sizes: Sizes, width: int, categories: bool) -> nn.Embedding | CategorisedItems:
    """Vectors of item ids alone, or of their categories too.

    Raises:
        ConfigError: categories are to be read, and there are none.
    """
    if not categories:
        return item_embedding(sizes.num_items, width)
    if not sizes.num_categories:
        what = "categories are to be read, and no item has one"
        raise ConfigError(what, fix="Prepare the Store with categories, or leave them out: --model.no-categories.")
    return CategorisedItems(sizes.num_items, sizes.num_categories, width)


def best_products(
    vectors: Float[Tensor, "B K D"], real: Bool[Tensor, "B K"], items: Float[Tensor, "I D"]
) -> Float[Tensor, "B I"]:
    """max_k v_k . e_i over the vectors there are; -inf without any, and at item 0."""
    scores = vectors.new_full((len(vectors), len(items)), -torch.inf)
    for k in range(vectors.shape[1]):  # one [B, I] at a time
        scores = torch.where(real[:, k, None], torch.maximum(scores, vectors[:, k] @ items.T), scores)
    scores[:, 0] = -torch.inf
    return scores


def squash(z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """z |z| / (1 + |z|^2): the same direction, a length below 1.

    Sabour et al., "Dynamic routing between capsules", NeurIPS 2017, Eq. 1.
    """
    length = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    return z * length / (1 + length**2)


def routed(
    x: Float[Tensor, "B S D"],
    maps: Float[Tensor, "K D D"],
    logits: Float[Tensor, "#B S K"],
    real: Bool[Tensor, "B K"],
    iterations: int,
) -> Float[Tensor, "B K D"]:
    """Dynamic routing of actions to interests; each round, with M_k one interest's map of an action's vector,

        w_ik = softmax_k(b_ik);  u_k = squash(sum_i w_ik M_k x_i);  b_ik += u_k . M_k x_i

    The weights of the last round are constants to the gradient, which flows through its sum alone. M_k x_i, the largest
    tensor of the textbook's way, is never made: a sum of maps is the map of the sum, and u . M x = (M^T u) . x.

    Args:
        x: zero at padding, which therefore adds nothing.
        logits: b before the first round.
        real: interests that take part; at least one a row.
    """
    logits = logits.masked_fill(~real[:, None], -torch.inf)
    with torch.no_grad():
        for _ in range(iterations - 1):
            back = torch.einsum("bke,ked->bkd", squash(_mapped(x, maps, logits)), maps)
            logits = logits + x @ back.transpose(1, 2)
    return squash(_mapped(x, maps, logits))


def _mapped(x: Tensor, maps: Tensor, logits: Tensor) -> Tensor:
    """sum_i w_ik M_k x_i, [B, K, D]."""
    return torch.einsum("bkd,ked->bke", logits.softmax(2).transpose(1, 2) @ x, maps)

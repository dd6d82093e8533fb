"""The interface of every index of vectors, exact or not."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Index(ABC):
    """Finds the items whose vectors have the largest dot product with a query.

    Built from item vectors [I, D], I = num_items + 1; row 0 is padding and never returned.

    Attributes:
        is_exact: True where the answer is the very one of a full comparison; that of the others is judged by it.
    """

    is_exact: bool
    num_items: int
    width: int

    @abstractmethod
    def search(self, query: Float[Tensor, "B D"], k: int) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"]]:
        """The k best items and their scores, best first; equal scores, the smaller item first.

        Returns: always K = k columns; item 0 and score -inf where there are fewer items.
        Raises:
            ValueError: a query of another width, or one with NaN or infinity; k below 1.
        """


def check_vectors(vectors: Float[Tensor, "N D"], what: str) -> None:
    """Refuse vectors that cannot be compared.

    Raises:
        ValueError: names the first row with NaN or infinity.
    """
    bad = ~torch.isfinite(vectors.abs().amax(1))  # of the largest: many times faster than of all
    if bool(bad.any()):
        raise ValueError(f"{what} row {int(bad.nonzero()[0, 0])} of {len(vectors)} has NaN or infinity")

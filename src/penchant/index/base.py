"""The interface of every index of vectors, exact or not."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float, Int
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
    def search(
        self,
        query: Float[Tensor, "B D"],
        k: int,
        *,
        exclude: Int[Tensor, "B S"] | None = None,
        available: Bool[Tensor, " I"] | None = None,
    ) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"]]:
        """The k best items and their scores, best first; equal scores, the smaller item first.

        Both filters come before the k best are chosen: a list is short only where too few items are left.

        Args:
            exclude: items that a row's list must not have (what its user has seen), in any order; 0 = none.
            available: False at items that no list may have (out of stock); None = all may.
        Returns: always K = k columns; item 0 and score -inf where there are fewer items.
        Raises:
            ValueError: a query of another width, or one with NaN or infinity; k below 1; filters of another size.
        """


def check_vectors(vectors: Float[Tensor, "N D"], what: str) -> None:
    """Refuse vectors that cannot be compared.

    Raises:
        ValueError: names the first row with NaN or infinity.
    """
    bad = ~torch.isfinite(vectors.abs().amax(1))  # of the largest: many times faster than of all
    if bool(bad.any()):
        raise ValueError(f"{what} row {int(bad.nonzero()[0, 0])} of {len(vectors)} has NaN or infinity")


def check_query(query: Float[Tensor, "B D"], k: int, width: int) -> None:
    """Refuse what no index can answer.

    Raises:
        ValueError: another width, k below 1, or NaN or infinity, with its row.
    """
    if query.shape[1] != width or k < 1:
        raise ValueError(f"query of width {query.shape[1]}, k {k}: the index has width {width}, k starts at 1")
    check_vectors(query, "query")


def check_filters(
    rows: int, num_items: int, exclude: Int[Tensor, "B S"] | None, available: Bool[Tensor, " I"] | None
) -> None:
    """Refuse filters of other requests or of another catalogue.

    Raises:
        ValueError: as many rows as queries, and one flag an item and one for row 0, are asked for.
    """
    if exclude is not None and len(exclude) != rows:
        raise ValueError(f"exclude has {len(exclude)} rows for {rows} queries")
    if available is not None and len(available) != num_items + 1:
        raise ValueError(f"available has {len(available)} flags, the index {num_items} items and row 0")

"""KARMA's "lightweight query embedding": words and pieces of words, hashed, summed, projected (K12 of Eq. 1).

No language model and no vocabulary: a query costs microseconds when it is typed, and half a word or a typo shares most
of its pieces with what was meant.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from penchant.layers import MLP

BUCKETS = 2**15
WIDTH = 64
MOST = 48
"""Pieces of a query that count, the first ones."""


def pieces(query: str) -> list[int]:
    """The buckets (1..BUCKETS - 1) of a query's words and of the three-letter pieces of each, word by word."""
    found: list[str] = []
    for word in re.findall(r"\w+", query.lower()):
        bounded = f"<{word}>"
        found += [bounded, *(bounded[i : i + 3] for i in range(len(bounded) - 2))]
    return [1 + zlib.crc32(piece.encode()) % (BUCKETS - 1) for piece in found[:MOST]]


def piece_table(queries: Sequence[str]) -> Int[Tensor, "Q P"]:
    """The pieces of each query, int32, 0 = none; as wide as the longest."""
    rows = [pieces(query) for query in queries]
    table = torch.zeros(len(rows), max((len(row) for row in rows), default=0) or 1, dtype=torch.int32)
    for place, row in enumerate(rows):
        table[place, : len(row)] = torch.tensor(row, dtype=torch.int32)
    return table


class QueryEncoder(nn.Module):
    """A query as a token of the decoder's width; no query ("") has one of its own.

    Args:
        known: how many queries of the logs are kept by their number, 1..known; 0 = no query.
    """

    table: Tensor

    def __init__(self, known: int, width: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(known + 1, MOST, dtype=torch.int32))
        self.pieces = nn.Embedding(BUCKETS, WIDTH, padding_idx=0)
        self.none = nn.Parameter(torch.randn(WIDTH))
        self.up = MLP(WIDTH, width, width)
        self.norm = nn.RMSNorm(width, eps=1e-6)

    def keep(self, queries: Sequence[str]) -> None:
        """Learn what the queries numbered 1, 2, .. say."""
        found = piece_table(queries)
        self.table.zero_()
        self.table[1:, : found.shape[1]] = found

    def forward(self, queries: Sequence[str]) -> Float[Tensor, "B D"]:
        """Of queries as they are typed."""
        return self._of(piece_table(queries).to(self.table.device))

    def known(self, numbers: Int[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        """Of queries by their number. Each distinct one is computed once."""
        distinct, inverse = torch.unique(numbers, return_inverse=True)
        return F.embedding(inverse, self._of(self.table[distinct]))

    def _of(self, table: Int[Tensor, "B P"]) -> Float[Tensor, "B D"]:
        there = (table > 0).sum(1, keepdim=True)
        mean = self.pieces(table).sum(1) / there.clamp(min=1)
        return self.norm(self.up(torch.where(there > 0, mean, self.none)).float())

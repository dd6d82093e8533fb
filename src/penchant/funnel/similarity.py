"""What one embedding model says of a (request, candidate) pair: read by the fusion and by the ranker's features.

Candidates alone are compared, never the catalogue. KARMA, section 3.5: its vectors rank beyond what its own list holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from penchant.data.history import Requests
from penchant.funnel.retrieve import EmbeddingRetriever
from penchant.funnel.stages import Embedder, Retriever
from penchant.index.exact import ExactIndex

BLOCK = 2**20
"""Floats of gathered vectors, and of cosines, held at once: 4 MB each, or one request's where that is more."""

TRAINING = 2**18
"""Vectors kept where stages train, some 250 MB at a width of 128: a ranker comes back to every request of two windows
each epoch."""
SERVING = 256
"""Vectors kept where lists are made: the stages of a call ask for the same requests, no later call does, whose times
are its own. A call of more requests than this is read once by each stage."""


@dataclass(frozen=True)
class Similarity:
    """An embedding model beside the item vectors it serves, on the CPU and in evaluation mode.

    A request is read by itself, so that its vector is the same to the last bit whatever it is asked together with, and
    remembered, since several stages ask for it, and each epoch of those that train.

    Attributes:
        channel: the name its columns go by.
        vectors: row 0 is never read.
        remembered: requests whose vectors are kept; one more, and all are forgotten.
    """

    channel: str
    model: Embedder
    vectors: Float[Tensor, "I D"]
    remembered: int = SERVING
    _known: dict[bytes, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @torch.no_grad()
    def user_vectors(self, requests: Requests) -> Float[Tensor, "B D"]:
        """h_t of each request; zero where the model can say nothing."""
        found = [self._user_vector(requests.rows(slice(b, b + 1))) for b in range(len(requests))]
        return torch.stack(found) if found else self.vectors.new_zeros(0, self.vectors.shape[1])

    @torch.no_grad()
    def scores(self, requests: Requests, items: Int[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        """h_t . e_i, the channel's own score, also of what the channel did not find; 0 for item 0."""
        users = self.user_vectors(requests)[..., None]
        parts = [(self._of(items[rows]) @ users[rows])[..., 0] for rows in self._blocks(items, 1)]
        return torch.cat(parts) if parts else torch.zeros(items.shape)

    @torch.no_grad()
    def cosines(self, requests: Requests, items: Int[Tensor, "B K"], recent: int) -> Float[Tensor, "B K 3"]:
        """Largest and mean cosine of each candidate's vector with those of the history, and the largest with its last.

        Args:
            recent: actions that the third is of.
        Returns: 0 without history, for item 0, and where a vector is zero.
        """
        history = F.pad(requests.history, (0, 1))  # never empty
        lengths, place = requests.lengths[:, None], torch.arange(history.shape[1])
        real, late = history > 0, (history > 0) & (place >= requests.lengths[:, None] - recent)
        parts = []
        for rows in self._blocks(items, history.shape[1]):
            candidates, seen = (F.normalize(self._of(of[rows]), dim=2) for of in (items, history))
            cosine = candidates @ seen.mT
            best = [torch.where(of[rows, None], cosine, -torch.inf).amax(2) for of in (real, late)]
            mean = (cosine * real[rows, None]).sum(2) / lengths[rows].clamp(min=1)
            columns = torch.stack([best[0], mean, best[1]], dim=2)
            parts.append(torch.where(lengths[rows, None] > 0, columns, 0.0))
        return torch.cat(parts) if parts else torch.zeros(*items.shape, 3)

    def _of(self, items: Int[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        return torch.where(items[..., None] > 0, self.vectors[items], 0.0)

    def _blocks(self, items: Int[Tensor, "B K"], length: int) -> list[slice]:
        count, width = items.shape[1], self.vectors.shape[1]
        rows = max(1, BLOCK // max(count * length, (count + length) * width))
        return [slice(start, start + rows) for start in range(0, len(items), rows)]

    def _user_vector(self, request: Requests) -> Float[Tensor, " D"]:
        request = request.last(request.history.shape[1])  # without padding
        key = hashlib.blake2b(digest_size=16)
        for of in fields(request):  # all of them: a model may read any
            part = getattr(request, of.name)
            key.update(of.name.encode() + (part.numpy().tobytes() if isinstance(part, Tensor) else repr(part).encode()))
        vector = self._known.get(key.digest())
        if vector is None:
            vector = self.model.user_vectors(request)[0].clone()
            if len(self._known) >= self.remembered:
                self._known.clear()
            self._known[key.digest()] = vector
        return vector


def similarities(sources: Iterable[Retriever], remembered: int = SERVING) -> dict[str, Similarity]:
    """One for each channel of vectors, by its name; an exact index's own vectors are shared with it."""
    return {
        source.name: Similarity(
            source.name,
            source.model,
            source.index.vectors if isinstance(source.index, ExactIndex) else source.model.item_vectors().detach(),
            remembered,
        )
        for source in sources
        if isinstance(source, EmbeddingRetriever)
    }

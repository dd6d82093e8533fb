"""The reader of a bundle: a server tells in words what a user's vector says, where it was asked to."""

from __future__ import annotations

from pathlib import Path

import torch

from penchant.data.history import Requests
from penchant.errors import BundleError, RunError
from penchant.index.exact import best_items
from penchant.papers.karma.model import Karma
from penchant.papers.karma.reader import InterestReader, Spelling
from penchant.serve.bundle import READERS, Bundle

NO_READER = "Export it with --reader, or serve without --read."


class BundleReader:
    """Tells interests by the first of a bundle's channels that has a reader.

    Raises:
        BundleError: none has, or it does not fit.
    """

    def __init__(self, bundle: Bundle) -> None:
        readers = [bundle.path / READERS / channel.name for channel in bundle.funnel.settings.channels]
        folder = next((reader for reader in readers if reader.is_dir()), None)
        if folder is None:
            raise BundleError("has no reader", where=bundle.path, fix=NO_READER)
        models = {source.name: getattr(source, "model", None) for source in bundle.funnel.retrievers}
        model = models.get(folder.name)
        if not isinstance(model, Karma):
            raise BundleError("is of no KARMA channel", where=folder, fix="Export the run again.")
        try:
            self.model, self.reader = model, InterestReader.load(folder)
            self.spelling = Spelling.load(folder, self.reader)
        except RunError as error:
            raise BundleError(str(error), fix="Export the run again with this version.") from error
        with torch.no_grad():
            self._items = model.item_vectors()

    @property
    def reads_queries(self) -> bool:
        return self.model.query is not None

    @torch.no_grad()
    def tell(self, requests: Requests, k: int) -> tuple[str, list[int]]:
        """Words told from h_t alone, and the nearest items, best first; of one request with a history."""
        states, _ = self.model.last_states(requests.last(self.model.config.max_len))
        scores = self.model.users(states) @ self._items.T
        scores[:, 0] = -torch.inf
        nearest = [item for item in best_items(scores, k)[0][0].tolist() if item]
        return self.spelling.spelt(self.reader.tell(self.model, states)[0]), nearest


def export_reader(source: Path, out: Path) -> None:
    """A run's reader as a bundle holds it: without what tells pictures, for which a bundle has no vectors.

    Raises:
        RunError: it is damaged.
    """
    reader = InterestReader.load(source)
    spelling = Spelling.load(source, reader)
    reader.without_pictures().save(out, spelling.tokenizer)

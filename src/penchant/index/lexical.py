"""Text search over the catalogue: BM25 on title, category and text, forgiving of typos.

Built in memory when it is needed (about a second for 50,000 items), so that no index format is part of a bundle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tantivy

SEARCH_POOL = 200
"""Best text matches that a model orders anew."""

MAX_WORDS = 32
"""Words of a query beyond these are not looked at."""

BOOSTS = {"title": 3.0, "category": 2.0, "text": 1.0}
"""Weight of a match in each field."""

FUZZY_LENGTH = 4
"""Words shorter than this match exactly or not at all: at one edit's distance they would match almost anything."""


@dataclass(frozen=True)
class Matches:
    """Items that match a query, best first.

    Attributes:
        items: int64 [K], dense items.
        scores: float64 [K], BM25.
        matched: how: "all words", "some words" (no item has all), "close spelling" (no item has any), or "nothing".
    """

    items: np.ndarray
    scores: np.ndarray
    matched: str


class LexicalIndex:
    """Searches items 1..num_items by their words.

    Args:
        titles, categories, texts: one of each for items 1..num_items, in order; None where an item has none.
    """

    def __init__(
        self, titles: Sequence[str | None], categories: Sequence[str | None], texts: Sequence[str | None]
    ) -> None:
        tokenizer = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        for step in (tantivy.Filter.remove_long(64), tantivy.Filter.lowercase(), tantivy.Filter.ascii_fold()):
            tokenizer = tokenizer.filter(step)
        self._analyzer = tokenizer.build()
        builder = tantivy.SchemaBuilder().add_unsigned_field("item", fast=True)
        for field in BOOSTS:
            builder = builder.add_text_field(field, tokenizer_name="words", index_option="freq")
        self._schema = builder.build()
        index = tantivy.Index(self._schema)
        index.register_tokenizer("words", self._analyzer)
        # One thread, so that items of equal score come in the catalogue's order on every machine.
        writer = index.writer(num_threads=1)
        for item, (title, category, text) in enumerate(zip(titles, categories, texts, strict=True), start=1):
            document = tantivy.Document()
            document.add_unsigned("item", item)
            for field, value in (("title", title), ("category", category), ("text", text)):
                if value:
                    document.add_text(field, value)
            writer.add_document(document)
        writer.commit()
        writer.wait_merging_threads()
        index.reload()
        self._searcher = index.searcher()

    def search(self, query: str, k: int) -> Matches:
        """The k best matches: of all the query's words; failing that, of some; failing that, of words spelled alike."""
        words = list(dict.fromkeys(self._analyzer.analyze(query)))[:MAX_WORDS]
        if not words:
            return self._matches(None, k, "nothing")
        exact = [self._word(word, fuzzy=False) for word in words]
        close = [self._word(word, fuzzy=True) for word in words]
        for matched, occur, queries in (
            ("all words", tantivy.Occur.Must, exact),
            ("some words", tantivy.Occur.Should, exact),
            ("close spelling", tantivy.Occur.Should, close),
        ):
            found = self._matches(tantivy.Query.boolean_query([(occur, q) for q in queries]), k, matched)
            if len(found.items):
                return found
        return self._matches(None, k, "nothing")

    def _word(self, word: str, *, fuzzy: bool) -> tantivy.Query:
        """A word in its best field."""
        per_field = []
        for field, boost in BOOSTS.items():
            if fuzzy and len(word) >= FUZZY_LENGTH:
                query = tantivy.Query.fuzzy_term_query(self._schema, field, word)
            else:
                query = tantivy.Query.term_query(self._schema, field, word, index_option="freq")
            per_field.append(tantivy.Query.boost_query(query, boost))
        return tantivy.Query.disjunction_max_query(per_field)

    def _matches(self, query: tantivy.Query | None, k: int, matched: str) -> Matches:
        hits = self._searcher.search(query, limit=k, count=False).hits if query is not None else []
        items = self._searcher.fast_field_values("item", [address for _, address in hits]) if hits else []
        return Matches(np.array(items, dtype=np.int64), np.array([s for s, _ in hits], dtype=np.float64), matched)

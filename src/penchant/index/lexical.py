"""Text search over the catalogue: BM25 on title, category and text, forgiving of typos.

Built in memory when it is needed (about a second for 50,000 items), so that no index format is part of a bundle.
"""

from __future__ import annotations

from collections import Counter
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

MENDED = range(4, 25)
"""Lengths of words whose spelling is mended: one letter away, a shorter one would match almost anything."""

LETTERS = 64
"""The commonest ones are tried in a word; a script that has more of them has no letters to mistype."""


@dataclass(frozen=True)
class Matches:
    """Items that match a query, best first.

    Attributes:
        items: int64 [K], dense items.
        scores: float64 [K], BM25.
        matched: how: "all words", "some words" (no item has all), "close spelling" (a word that no item has was taken
            for those one letter away from it), or "nothing".
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
        self._words: set[str] = set()
        for item, (title, category, text) in enumerate(zip(titles, categories, texts, strict=True), start=1):
            document = tantivy.Document()
            document.add_unsigned("item", item)
            for field, value in (("title", title), ("category", category), ("text", text)):
                if value:
                    document.add_text(field, value)
                    self._words.update(self._analyzer.analyze(value))
            writer.add_document(document)
        writer.commit()
        writer.wait_merging_threads()
        index.reload()
        self._searcher = index.searcher()
        letters = Counter(letter for word in self._words for letter in word)
        self._letters = [letter for letter, _ in letters.most_common(LETTERS)]

    def search(self, query: str, k: int) -> Matches:
        """The k best matches: of all the query's words; failing that, of some."""
        words = list(dict.fromkeys(self._analyzer.analyze(query)))[:MAX_WORDS]
        meant = [[word] if word in self._words else self._mended(word) for word in words]
        queries = [self._any_of(some) for some in meant if some]
        mended = any(some and some != [word] for word, some in zip(words, meant, strict=True))
        for matched, occur in (("all words", tantivy.Occur.Must), ("some words", tantivy.Occur.Should)):
            if not queries or (matched == "all words" and len(queries) < len(words)):
                continue
            query_of_all = tantivy.Query.boolean_query([(occur, q) for q in queries])
            found = self._matches(query_of_all, k, "close spelling" if mended else matched)
            if len(found.items):
                return found
        return self._matches(None, k, "nothing")

    def _mended(self, word: str) -> list[str]:
        """The catalogue's words that are one letter away, or two neighbours changed about, in order."""
        if len(word) not in MENDED:
            return []
        parts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
        near = {a + b[1:] for a, b in parts if b}
        near |= {a + b[1] + b[0] + b[2:] for a, b in parts if len(b) > 1}
        near |= {a + letter + rest for a, b in parts for letter in self._letters for rest in {b, b[1:]}}
        return sorted(near & self._words)

    def _any_of(self, words: Sequence[str]) -> tantivy.Query:
        """The best of some words, in its best field."""
        per_field = [
            tantivy.Query.boost_query(tantivy.Query.term_query(self._schema, field, word, index_option="freq"), boost)
            for word in words
            for field, boost in BOOSTS.items()
        ]
        return tantivy.Query.disjunction_max_query(per_field)

    def _matches(self, query: tantivy.Query | None, k: int, matched: str) -> Matches:
        hits = self._searcher.search(query, limit=k, count=False).hits if query is not None else []
        items = self._searcher.fast_field_values("item", [address for _, address in hits]) if hits else []
        return Matches(np.array(items, dtype=np.int64), np.array([s for s, _ in hits], dtype=np.float64), matched)

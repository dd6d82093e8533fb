"""Text search on a catalogue of four items."""

from __future__ import annotations

import pytest

from penchant.index.lexical import LexicalIndex


@pytest.fixture(scope="module")
def index() -> LexicalIndex:
    return LexicalIndex(
        ["Red wool scarf", "Blue Café chair", "Red silk scarf", None],
        ["clothes > scarves", "furniture > chairs", None, "clothes"],
        ["Knitted by hand", None, None, "wool"],
    )


@pytest.mark.parametrize(
    ("query", "items", "matched"),
    [
        ("red scarf", [1, 3], "all words"),  # equal scores: the catalogue's order
        ("SCARF, red!", [1, 3], "all words"),
        ("cafe", [2], "all words"),
        ("clothes wool", [1, 4], "all words"),
        ("red chair", [2, 1, 3], "some words"),
        ("scalf", [1, 3], "close spelling"),
        ("scraf", [1, 3], "close spelling"),  # neighbours changed about
        ("red silkk", [3], "close spelling"),  # one word mended, and items have all
        ("blue scraf", [2, 1, 3], "close spelling"),  # no item has both
        ("rad", [], "nothing"),  # too short to guess at
        ("zebra", [], "nothing"),
        ("", [], "nothing"),
        ('title:"(', [], "nothing"),  # a query is words, not a language
        ("red AND OR NOT *", [1, 3], "some words"),
    ],
)
def test_queries_match(index: LexicalIndex, query: str, items: list[int], matched: str) -> None:
    found = index.search(query, 10)
    assert (found.items.tolist(), found.matched) == (items, matched)
    assert len(found.scores) == len(items)


def test_a_title_match_comes_before_a_text_match(index: LexicalIndex) -> None:
    found = index.search("wool", 10)
    assert found.items.tolist() == [1, 4]
    assert found.scores[0] > found.scores[1]


def test_a_mended_word_counts_as_it_does_when_spelt_right(index: LexicalIndex) -> None:
    right, mended = index.search("wool", 10), index.search("woool", 10)
    assert mended.items.tolist() == right.items.tolist()
    assert mended.scores.tolist() == right.scores.tolist()


def test_no_more_than_k_are_returned(index: LexicalIndex) -> None:
    assert index.search("red scarf", 1).items.tolist() == [1]


def test_a_query_of_endless_words_is_answered(index: LexicalIndex) -> None:
    assert index.search(" ".join(f"w{i}" for i in range(100_000)) + " red", 10).matched == "nothing"

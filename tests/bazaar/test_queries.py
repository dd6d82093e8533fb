"""Queries of the generated market: typed as stated, and what is meant is judged as a loop would."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penchant.bazaar import words
from penchant.bazaar.queries import ASKABLE, NUM_CATEGORIES, UNASKED, QueryRates, misspell, query, relevance, unfinished
from penchant.bazaar.words import Attributes, compose

CLEAN = QueryRates(synonym=0.0, partial=0.0, typo=0.0)
ITEMS = 200
TREE = words.category_tree(len(words.LEAVES))
PHRASES = st.lists(st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=9), min_size=1, max_size=4).map(" ".join)
SHARE = st.floats(0, 1, exclude_max=True)


@pytest.fixture(scope="module")
def attributes() -> Attributes:
    rng = np.random.default_rng(4)
    return compose(rng, rng.integers(0, 700, ITEMS))


def drawn(attributes: Attributes, rates: QueryRates, n: int = 1000) -> list[tuple[str, tuple[int, ...]]]:
    rng = np.random.default_rng(0)
    return [query(rng, attributes, i % ITEMS, rates) for i in range(n)]


def has(attributes: Attributes, i: int, name: str, value: int) -> bool:
    leaf = int(attributes.leaf[i])
    match name:
        case "middle":
            return words.MIDDLES[value] == TREE[leaf][1]
        case "kind":
            return words.KINDS[value].noun == words.KINDS[words.LEAVES[leaf][0]].noun
        case "theme":
            return value in attributes.themes[i].tolist()
        case _:
            return value == getattr(attributes, name)[i]


def relevance_by_loop(required: tuple[int, ...], attributes: Attributes, i: int) -> float:
    asked = [(name, value) for name, value in zip(ASKABLE, required, strict=True) if value != UNASKED]
    met = [has(attributes, i, name, value) for name, value in asked]
    return sum(met) / len(met) if met[0] else 0.0


def test_the_same_seed_types_the_same(attributes: Attributes) -> None:
    assert drawn(attributes, QueryRates(), 200) == drawn(attributes, QueryRates(), 200)


def test_relevance_is_the_share_of_what_is_met_in_the_category(attributes: Attributes) -> None:
    for _, required in drawn(attributes, CLEAN, 40):
        expected = [relevance_by_loop(required, attributes, i) for i in range(ITEMS)]
        np.testing.assert_allclose(relevance(required, attributes), expected, rtol=1e-6)


def test_many_queries_are_judged_as_one_by_one(attributes: Attributes) -> None:
    queries = np.array([required for _, required in drawn(attributes, CLEAN, 50)])
    items = np.random.default_rng(1).integers(0, ITEMS, (50, 7))
    together = relevance(queries, attributes, items)
    for row, required, chosen in zip(together, queries, items, strict=True):
        np.testing.assert_array_equal(row, relevance(required, attributes)[chosen])


def test_the_item_that_is_looked_for_is_wholly_relevant(attributes: Attributes) -> None:
    rng = np.random.default_rng(2)
    for i in range(ITEMS):
        _, required = query(rng, attributes, i)
        assert relevance(required, attributes, np.array([i])) == 1.0


def test_a_query_requires_one_category_and_up_to_three_attributes(attributes: Attributes) -> None:
    required = np.array([required for _, required in drawn(attributes, QueryRates())])
    asked = required != UNASKED
    assert (asked[:, :NUM_CATEGORIES].sum(1) == 1).all()
    assert set(asked[:, NUM_CATEGORIES:].sum(1).tolist()) == {0, 1, 2, 3}
    assert asked.any(0).all()


def test_a_query_without_slips_is_the_words_of_what_it_requires(attributes: Attributes) -> None:
    names = {
        "middle": words.MIDDLES,
        "kind": [kind.noun for kind in words.KINDS],
        "leaf": [leaf for _, _, leaf in TREE],
        "brand": [brand.lower() for brand in words.BRANDS],
        "theme": words.THEME_WORDS,
        "feature": words.FEATURES,
        "colour": words.COLOURS,
        "material": words.MATERIALS,
        "pattern": words.PATTERNS,
    }
    for text, required in drawn(attributes, CLEAN, 500):
        said = [names[name][value] for name, value in zip(ASKABLE, required, strict=True) if value != UNASKED]
        assert text == " ".join([*said[1:], said[0]])


def test_nobody_asks_for_plain(attributes: Attributes) -> None:
    column = ASKABLE.index("pattern")
    assert words.PLAIN not in {required[column] for _, required in drawn(attributes, QueryRates(head=0.0))}


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("rate", ["head", "middle", "typo"])
def test_rates_are_kept(attributes: Attributes, rate: str, share: float) -> None:
    queries = drawn(attributes, replace(CLEAN, **{rate: share}))
    clean = drawn(attributes, CLEAN)
    seen = {
        "head": [all(value == UNASKED for value in required[NUM_CATEGORIES:]) for _, required in queries],
        "middle": [required[0] != UNASKED for _, required in queries],
        "typo": [text != other for (text, _), (other, _) in zip(queries, clean, strict=True)],
    }[rate]
    # Five standard deviations of a share over 1,000 draws; a few queries ("mug") have no word long enough for a typo.
    assert abs(np.mean(seen) - share) < (0.0 if share == 0 else 5 * 0.5 / np.sqrt(1000)) + 1e-9


def test_slips_and_synonyms_change_the_text_and_not_what_is_meant(attributes: Attributes) -> None:
    clean = drawn(attributes, CLEAN)
    changed = drawn(attributes, QueryRates(synonym=1.0, partial=1.0, typo=1.0))
    assert [required for _, required in clean] == [required for _, required in changed]
    assert np.mean([a != b for (a, _), (b, _) in zip(clean, changed, strict=True)]) > 0.9


def test_synonyms_are_of_words_that_are_there() -> None:
    known = {kind.noun for kind in words.KINDS} | {*words.COLOURS, *words.MATERIALS, *words.PATTERNS}
    assert set(words.SYNONYMS) - known - set(words.THEME_WORDS) == set()


@given(PHRASES, SHARE, SHARE)
@settings(deadline=None, max_examples=100)
def test_a_typo_is_one_slip_behind_the_first_letter_of_one_long_word(text: str, where: float, how: float) -> None:
    typed = misspell(text, where, how)
    before, after = text.split(" "), typed.split(" ")
    assert len(before) == len(after)
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    if max(map(len, before)) < 4:
        assert typed == text
        return
    [(word, slip)] = changed
    assert len(word) >= 4
    assert slip[0] == word[0]
    assert abs(len(slip) - len(word)) <= 1
    if len(slip) == len(word):
        differ = [k for k in range(len(word)) if word[k] != slip[k]]
        assert len(differ) == 1 or (sorted(word) == sorted(slip) and differ[1] == differ[0] + 1)


@given(PHRASES, SHARE)
@settings(deadline=None, max_examples=100)
def test_an_unfinished_query_lacks_only_the_end_of_its_last_word(text: str, where: float) -> None:
    typed = unfinished(text, where)
    last = text.split(" ")[-1]
    assert text.startswith(typed)
    if len(last) < 4:
        assert typed == text
    else:
        assert 3 <= len(typed.split(" ")[-1]) < len(last)
        assert len(typed.split(" ")) == len(text.split(" "))

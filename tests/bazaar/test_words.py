"""The generated market's language: texts say what items are, and theme vectors are those of the words in them."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from penchant.bazaar import words
from penchant.bazaar.words import Attributes, category_tree, compose, description, theme_of, title

SOME = 400


@pytest.fixture(scope="module")
def attributes() -> Attributes:
    rng = np.random.default_rng(3)
    return compose(rng, rng.integers(0, len(words.LEAVES), SOME))


def theme_words_in(text: str) -> Counter[int]:
    """How often each theme word is in a text, as a whole word."""
    tokens = Counter(re.findall(r"[\w'-]+", text.lower()))
    return Counter({w: tokens[word] for w, word in enumerate(words.THEME_WORDS) if word in tokens})


def test_the_tree_is_that_of_a_general_shop() -> None:
    tree = category_tree(len(words.KINDS))
    assert len({root for root, _, _ in tree}) == 10
    assert len({(root, middle) for root, middle, _ in tree}) == len({middle for _, middle, _ in tree}) == 50
    assert len(tree) >= 200


def test_leaves_have_names_of_their_own_however_many_there_are() -> None:
    tree = category_tree(len(words.LEAVES))
    assert len({leaf for _, _, leaf in tree}) == len(tree) > 5000
    assert tree[:300] == category_tree(300)


def test_fifty_leaves_are_of_fifty_middles() -> None:
    assert len({middle for _, middle, _ in category_tree(50)}) == 50


def test_a_refined_leaf_stays_in_the_category_of_its_kind() -> None:
    tree = category_tree(len(words.LEAVES))
    at = [leaf for _, _, leaf in tree].index("children's rain boots")
    assert tree[at][:2] == ("shoes and bags", "boots")
    assert words.KINDS[words.KIND_OF[at]].noun == "rain boots"


@pytest.mark.parametrize("num", [0, -1, 100_000])
def test_a_tree_of_no_leaves_or_of_more_than_have_names_is_refused(num: int) -> None:
    with pytest.raises(ValueError, match=f"num_leaves is {num}"):
        category_tree(num)


def test_the_same_seed_composes_the_same() -> None:
    leaves = np.arange(50)
    one, two, other = (compose(np.random.default_rng(seed), leaves) for seed in (1, 1, 2))
    for name in Attributes.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert not np.array_equal(one.themes, other.themes)


def test_an_item_is_made_of_what_its_kind_is_made_of(attributes: Attributes) -> None:
    for i in range(SOME):
        kind = words.KINDS[words.KIND_OF[attributes.leaf[i]]]
        assert words.MATERIALS[attributes.material[i]] in kind.materials
        assert words.FEATURES[attributes.feature[i]] in kind.features


def test_a_kind_has_brands_of_its_own() -> None:
    items = compose(np.random.default_rng(0), np.zeros(500, np.int32))
    assert len(set(items.brand.tolist())) == words.BRANDS_PER_KIND


def test_style_and_theme_vary_within_a_leaf() -> None:
    items = compose(np.random.default_rng(0), np.zeros(2000, np.int32))
    assert set(items.colour.tolist()) == set(range(len(words.COLOURS)))
    assert set(items.themes.ravel().tolist()) == set(range(len(words.THEME_WORDS)))


def test_words_of_a_theme_are_near_each_other() -> None:
    vectors = words.THEME_VECTORS / np.linalg.norm(words.THEME_VECTORS, axis=1, keepdims=True)
    similarity = vectors @ vectors.T
    theme = np.arange(len(vectors)) // words.WORDS_PER_THEME
    same = (theme[:, None] == theme) & ~np.eye(len(vectors), dtype=bool)
    assert similarity[same].mean() > similarity[theme[:, None] != theme].mean() + 0.4


def test_an_items_theme_words_differ_and_the_later_two_often_share_the_first_ones_theme(attributes: Attributes) -> None:
    assert all(len(set(row)) == 3 for row in attributes.themes.tolist())
    themes = attributes.themes // words.WORDS_PER_THEME
    expected = words.SAME_THEME + (1 - words.SAME_THEME) / len(words.THEMES)
    # Five standard deviations of a share over 800 draws.
    assert abs((themes[:, 1:] == themes[:, :1]).mean() - expected) < 5 * 0.5 / np.sqrt(2 * SOME)


def test_the_theme_of_an_item_is_the_mean_of_its_words() -> None:
    chosen = np.array([[0, 9, 20], [55, 1, 2]], np.int32)
    for row, vector in zip(chosen, theme_of(chosen), strict=True):
        expected = sum(words.THEME_VECTORS[word].astype(np.float64) for word in row) / 3
        np.testing.assert_allclose(vector, expected, rtol=1e-5)


def test_a_text_has_the_theme_words_of_its_item_once_each_and_no_other(attributes: Attributes) -> None:
    for i in range(SOME):
        text = f"{title(attributes, i)}. {description(attributes, i)}"
        assert theme_words_in(text) == Counter(attributes.themes[i].tolist()), text


def test_no_name_of_anything_else_is_a_theme_word() -> None:
    names = [*words.BRANDS, *words.COLOURS, *words.PATTERNS, *words.MATERIALS, *words.FEATURES]
    names += [" ".join(path) for path in category_tree(len(words.LEAVES))]
    names += [synonym for synonyms in words.SYNONYMS.values() for synonym in synonyms]
    assert [name for name in names if theme_words_in(name) and name != "cozy"] == []


def test_titles_and_descriptions_name_the_attributes(attributes: Attributes) -> None:
    for i in range(SOME):
        brand, colour = words.BRANDS[attributes.brand[i]], words.COLOURS[attributes.colour[i]]
        leaf, material = words.leaf_name(int(attributes.leaf[i])), words.MATERIALS[attributes.material[i]]
        pattern, feature = words.PATTERNS[attributes.pattern[i]], words.FEATURES[attributes.feature[i]]
        for part in (brand, colour, leaf, material, *([] if pattern == "plain" else [pattern])):
            assert part.lower() in title(attributes, i).lower()
        for part in (colour, leaf, material, feature):
            assert part.lower() in description(attributes, i).lower()


def test_texts_are_well_formed_english(attributes: Attributes) -> None:
    for i in range(SOME):
        text = description(attributes, i)
        sentences = text.split(". ")
        assert 2 <= len(sentences) <= 3
        assert text.endswith(".")
        assert all(sentence[0].isupper() for sentence in [title(attributes, i), *sentences])
        both = f"{title(attributes, i)} {text}"
        assert not re.search(r"  |\{|\ba [aeio]|\ban [^aeiou]| [,.]", both, re.IGNORECASE), both


@pytest.mark.parametrize(("noun", "verb"), [("trousers", "are"), ("wine glass", "is"), ("chest of drawers", "is")])
def test_verbs_agree_with_the_noun(noun: str, verb: str) -> None:
    leaf = next(leaf for leaf, (kind, _) in enumerate(words.LEAVES) if words.KINDS[kind].noun == noun)
    attributes = compose(np.random.default_rng(0), np.full(60, leaf))
    texts = " ".join(description(attributes, i) for i in range(60))
    other = {"is": "are", "are": "is"}[verb]
    assert re.search(rf"(It|They) {verb} ", texts)
    assert not re.search(rf"(It|They|{noun} by [\w &]+) {other} ", texts)

"""The language of the generated market: categories, attributes of items, and what is written about them.

The vocabulary is `words.json`. What is said of an item follows from its `Attributes` alone, and its theme vector from
the theme words that its description really contains: nothing about an item's theme is hidden from a reader of its text.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int, Int32

_WORDS = json.loads(files("penchant.bazaar").joinpath("words.json").read_text("utf-8"))

BRANDS: list[str] = _WORDS["brands"]
COLOURS: list[str] = list(_WORDS["colours"])
COLOUR_HSL: Float32[np.ndarray, "colours 3"] = np.array(list(_WORDS["colours"].values()), np.float32)
"""[colours, 3]: hue in degrees, saturation and lightness in [0, 1] of what each colour word stands for."""
PATTERNS: list[str] = list(_WORDS["patterns"])
PLAIN = PATTERNS.index("plain")
SYNONYMS: dict[str, list[str]] = _WORDS["synonyms"]

THEMES: list[str] = list(_WORDS["themes"])
THEME_WORDS: list[str] = [word for words in _WORDS["themes"].values() for word in words]
WORDS_PER_THEME = len(THEME_WORDS) // len(THEMES)
THEME_WIDTH = 8
THEME_SPREAD = 0.3
"""Standard deviation of a theme word around its theme's axis, which has length 1."""
WORDS_PER_ITEM = 3
SAME_THEME = 0.6
"""Chance that the second and the third theme word of an item are of the first one's theme."""

BRANDS_PER_ROOT, BRANDS_PER_KIND, MOTIFS_PER_KIND = 12, 6, 4


def _theme_vectors() -> Float32[np.ndarray, "words 8"]:
    """[words, 8]: word w of theme t is the unit vector of axis t plus seeded noise."""
    axes = np.repeat(np.eye(len(THEMES), THEME_WIDTH), WORDS_PER_THEME, axis=0)
    noise = np.random.default_rng(8).normal(0.0, THEME_SPREAD, axes.shape)
    return (axes + noise).astype(np.float32)


THEME_VECTORS: Float32[np.ndarray, "words 8"] = _theme_vectors()


class Kind(NamedTuple):
    """A hand-written leaf, which refined leaves share: "rain boots", of which "children's rain boots" are one leaf."""

    root: str
    middle: str
    noun: str
    shape: str
    refinements: list[list[str]]
    materials: list[str]
    features: list[str]


def _kinds() -> list[Kind]:
    """The first kind of every middle category, then the second of every one, and so on: any prefix is a mixed shop."""
    columns = [
        [
            Kind(root, middle, noun, shape, words["refinements"], entry["materials"], words["features"])
            for noun, shape in entry["leaves"].items()
        ]
        for root, words in _WORDS["tree"].items()
        for middle, entry in words["middles"].items()
    ]
    longest = max(len(column) for column in columns)
    return [column[depth] for depth in range(longest) for column in columns if depth < len(column)]


def _leaves() -> list[tuple[int, str]]:
    """(kind, refinement) of every leaf: first the kinds themselves, then each refined by one word, then by two."""
    by_one, by_two = [], []
    for kind in KINDS:
        uses, sizes = kind.refinements
        by_one.append([*uses, *sizes])
        by_two.append([f"{size} {use}" for use in uses for size in sizes])
    rounds = [[""] * len(KINDS), *zip(*by_one, strict=True), *zip(*by_two, strict=True)]
    return [(kind, refinement) for words in rounds for kind, refinement in enumerate(words)]


def _numbered(names: list[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


KINDS: list[Kind] = _kinds()
LEAVES: list[tuple[int, str]] = _leaves()
KIND_OF: Int32[np.ndarray, " leaves"] = np.array([kind for kind, _ in LEAVES], np.int32)
ROOTS: list[str] = list(_WORDS["tree"])
MIDDLES: list[str] = list(_numbered([kind.middle for kind in KINDS]))
MIDDLE_OF: Int32[np.ndarray, " leaves"] = np.array([MIDDLES.index(kind.middle) for kind in KINDS], np.int32)[KIND_OF]
MATERIALS: list[str] = list(_numbered([material for kind in KINDS for material in kind.materials]))
FEATURES: list[str] = list(_numbered([feature for kind in KINDS for feature in kind.features]))


def _choices() -> dict[str, Int32[np.ndarray, "kinds choices"]]:
    """[kinds, choices] of each attribute that depends on the kind; every choice of a row is as likely as another."""
    brands, materials, patterns, features = [], [], [], []
    others = [p for p in range(len(PATTERNS)) if p != PLAIN]
    for number, kind in enumerate(KINDS):
        first = ROOTS.index(kind.root) * BRANDS_PER_ROOT // 2  # neighbouring roots share half of their brands
        brands.append([(first + (number + b) % BRANDS_PER_ROOT) % len(BRANDS) for b in range(BRANDS_PER_KIND)])
        materials.append([MATERIALS.index(material) for material in kind.materials])
        motifs = [others[(number + p) % len(others)] for p in range(MOTIFS_PER_KIND)]
        patterns.append([PLAIN, PLAIN, *motifs])  # a third of the items are plain
        features.append([FEATURES.index(feature) for feature in kind.features])
    tables = {"brand": brands, "material": materials, "pattern": patterns, "feature": features}
    return {name: _of_one_width(table) for name, table in tables.items()}


def _of_one_width(rows: list[list[int]]) -> Int32[np.ndarray, "rows width"]:
    """The rows as one table: each is repeated to the least common multiple of their lengths."""
    width = math.lcm(*(len(row) for row in rows))
    return np.array([row * (width // len(row)) for row in rows], np.int32)


_CHOICES = _choices()


def leaf_name(leaf: int) -> str:
    """ "rain boots", or refined, "children's rain boots"."""
    kind, refinement = LEAVES[leaf]
    return f"{refinement} {KINDS[kind].noun}".lstrip()


def category_tree(num_leaves: int) -> list[tuple[str, str, str]]:
    """(root, middle, leaf) names of the first `num_leaves` leaves; a smaller tree is the beginning of a larger one.

    Raises:
        ValueError: fewer than 1 leaf, or more than the language has names for.
    """
    if not 1 <= num_leaves <= len(LEAVES):
        raise ValueError(f"num_leaves is {num_leaves}; the language names 1 to {len(LEAVES)} leaves")
    kinds = [KINDS[kind] for kind, _ in LEAVES[:num_leaves]]
    return [(kind.root, kind.middle, leaf_name(leaf)) for leaf, kind in enumerate(kinds)]


@dataclass(frozen=True)
class Attributes:
    """What n items are: the text and the picture of an item say this and nothing else.

    Attributes:
        leaf: [n], into `LEAVES`, as in `category_tree`.
        brand, colour, material, pattern, feature: [n], into the list of that name.
        themes: [n, 3], different words of `THEME_WORDS`, in the order in which the description has them.
        wording: [n], which of the ways of writing a title and a description is taken.
        hue, shade: [n], in [-1, 1]: how far the picture's colour is from its word's, in hue and in lightness.
        density: [n], in [0, 1]: how fine the pattern is.
        roundness: [n], in [0, 1]: from sharp corners to round ones.
        backdrop: [n], in [0, 1]: from a dark background to a light one.
        fill: [n], in [0, 1]: from a small object with room around it to one that fills the frame.
    """

    leaf: Int32[np.ndarray, " N"]
    brand: Int32[np.ndarray, " N"]
    colour: Int32[np.ndarray, " N"]
    material: Int32[np.ndarray, " N"]
    pattern: Int32[np.ndarray, " N"]
    feature: Int32[np.ndarray, " N"]
    themes: Int32[np.ndarray, "N 3"]
    wording: Int32[np.ndarray, " N"]
    hue: Float32[np.ndarray, " N"]
    shade: Float32[np.ndarray, " N"]
    density: Float32[np.ndarray, " N"]
    roundness: Float32[np.ndarray, " N"]
    backdrop: Float32[np.ndarray, " N"]
    fill: Float32[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.leaf)


def compose(rng: np.random.Generator, leaves: Int[np.ndarray, " N"]) -> Attributes:
    """Attributes of items of the given leaves.

    Brand, material, pattern and feature are among those of the leaf's kind; colour, themes and looks do not depend on
    it, so that style and theme vary as much within a category as between them.
    """
    n = len(leaves)
    kinds = KIND_OF[leaves]

    def choose(name: str) -> Int32[np.ndarray, " N"]:
        table = _CHOICES[name]
        return table[kinds, rng.integers(0, table.shape[1], n)]

    def uniform(low: float, high: float) -> Float32[np.ndarray, " N"]:
        return rng.uniform(low, high, n).astype(np.float32)

    return Attributes(
        leaf=np.asarray(leaves, np.int32),
        brand=choose("brand"),
        colour=rng.integers(0, len(COLOURS), n).astype(np.int32),
        material=choose("material"),
        pattern=choose("pattern"),
        feature=choose("feature"),
        themes=_draw_themes(rng, n),
        wording=rng.integers(0, len(_TITLES) * len(_DESCRIPTIONS), n).astype(np.int32),
        hue=uniform(-1.0, 1.0),
        shade=uniform(-1.0, 1.0),
        density=uniform(0.0, 1.0),
        roundness=uniform(0.0, 1.0),
        backdrop=uniform(0.0, 1.0),
        fill=uniform(0.0, 1.0),
    )


def _draw_themes(rng: np.random.Generator, n: int) -> Int32[np.ndarray, "N 3"]:
    """[n, 3] different words; the later two are of the first one's theme with chance `SAME_THEME` each."""
    theme = rng.integers(0, len(THEMES), (n, WORDS_PER_ITEM))
    theme[:, 1:] = np.where(rng.random((n, WORDS_PER_ITEM - 1)) < SAME_THEME, theme[:, :1], theme[:, 1:])
    # Three different places within a theme, so that the words differ even where their themes do not.
    place = rng.random((n, WORDS_PER_THEME)).argsort(1)[:, :WORDS_PER_ITEM]
    return (theme * WORDS_PER_THEME + place).astype(np.int32)


def theme_of(word_indices: Int[np.ndarray, "N 3"]) -> Float32[np.ndarray, "N 8"]:
    """[n, 8]: the mean of the vectors of the words [n, 3]."""
    return THEME_VECTORS[word_indices].mean(axis=1)


_TITLES = [
    "{brand} {material} {pattern} {leaf}, {colour}",
    "{brand} {leaf} in {pattern} {colour} {material}",
    "{pattern} {colour} {material} {leaf} by {brand}",
]
_DESCRIPTIONS = [
    "{a0} design in {colour} {material} with {motif}. The look of {this} {leaf} is {w1} and {w2}. "
    "{they} {are} {feature}.",
    "{this} {w0} {leaf} by {brand} {are} made of {material} in {colour}, with {motif}. "
    "{they} {bring} {a1} touch and {a2} feel to every day, and {are} {feature} too.",
    "Made of {feature} {material} in {colour}, {this} {leaf} {have} {a0} character. With {motif}, {they} {look} {w1}: "
    "{a2} choice from {brand}.",
    "{a0} piece with {motif}. {brand} gave {this} {leaf} {a1}, {w2} look in {colour} {material}. "
    "{they} {are} {feature}.",
]
_SINGULAR = {"this": "this", "they": "it", "are": "is", "bring": "brings", "have": "has", "look": "looks"}
_PLURAL = {"this": "these", "they": "they", "are": "are", "bring": "bring", "have": "have", "look": "look"}


def title(attributes: Attributes, i: int) -> str:
    """ "Nordvik cotton striped tea towel, navy": brand, material, pattern unless plain, leaf and colour."""
    text = _TITLES[attributes.wording[i] % len(_TITLES)].format(
        brand=BRANDS[attributes.brand[i]],
        material=MATERIALS[attributes.material[i]],
        pattern="" if attributes.pattern[i] == PLAIN else PATTERNS[attributes.pattern[i]],
        leaf=leaf_name(int(attributes.leaf[i])),
        colour=COLOURS[attributes.colour[i]],
    )
    return _capitalised(" ".join(text.split()))


def description(attributes: Attributes, i: int) -> str:
    """Two or three sentences with the item's three theme words, and its leaf, colour, material, pattern and feature."""
    leaf = leaf_name(int(attributes.leaf[i]))
    words = [THEME_WORDS[word] for word in attributes.themes[i]]
    text = _DESCRIPTIONS[attributes.wording[i] // len(_TITLES)].format(
        brand=BRANDS[attributes.brand[i]],
        material=MATERIALS[attributes.material[i]],
        motif=_WORDS["patterns"][PATTERNS[attributes.pattern[i]]],
        leaf=leaf,
        colour=COLOURS[attributes.colour[i]],
        feature=FEATURES[attributes.feature[i]],
        **{f"w{k}": word for k, word in enumerate(words)},
        **{f"a{k}": f"{'an' if word[0] in 'aeiou' else 'a'} {word}" for k, word in enumerate(words)},
        **(_PLURAL if _is_plural(leaf) else _SINGULAR),
    )
    return ". ".join(_capitalised(sentence) for sentence in text.split(". "))


def _is_plural(noun: str) -> bool:
    return noun.endswith("s") and not noun.endswith(("ss", "chest of drawers"))


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]

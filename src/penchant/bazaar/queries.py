"""What shoppers of the generated market type, and what they meant by it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int

from penchant.bazaar.words import (
    BRANDS,
    COLOURS,
    FEATURES,
    KIND_OF,
    KINDS,
    LEAVES,
    MATERIALS,
    MIDDLE_OF,
    MIDDLES,
    PATTERNS,
    PLAIN,
    SYNONYMS,
    THEME_WORDS,
    WORDS_PER_ITEM,
    Attributes,
)

ASKABLE = ("middle", "kind", "leaf", "brand", "theme", "feature", "colour", "material", "pattern")
"""What a query can require, in the order of its words except that the category, the first three, is typed last."""
NUM_CATEGORIES = 3
UNASKED = -1

_NAMES = {
    "brand": [brand.lower() for brand in BRANDS],
    "theme": THEME_WORDS,
    "feature": FEATURES,
    "colour": COLOURS,
    "material": MATERIALS,
    "pattern": PATTERNS,
}
_ASKED = ["brand", *["theme"] * 2, "feature", *["colour"] * 3, *["material"] * 2, "pattern"]
"""Colour, theme and material are asked for most."""

_NEIGHBOURS = {
    key: "".join(row[max(0, at - 1) : at] + row[at + 1 : at + 2])
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for at, key in enumerate(row)
}


@dataclass(frozen=True)
class QueryRates:
    """How queries are typed: each a chance in [0, 1]."""

    head: float = 0.4
    """The category alone; otherwise one to three of the item's other attributes come before it."""
    middle: float = 0.1
    """The category is named by its middle level ("drinkware"), not by its noun ("mug")."""
    refined: float = 0.5
    """A refined leaf is named in full ("children's rain boots"), not by its noun ("rain boots")."""
    synonym: float = 0.15
    """A word that has synonyms is replaced by one."""
    partial: float = 0.06
    """The last word is left unfinished."""
    typo: float = 0.08
    """One word is misspelt."""


DEFAULT_RATES = QueryRates()


def query(
    rng: np.random.Generator, attributes: Attributes, i: int, rates: QueryRates = DEFAULT_RATES
) -> tuple[str, tuple[int, ...]]:
    """What a shopper who looks for item i types, and what is meant.

    Returns: the text, and the required value of each of `ASKABLE`, `UNASKED` where the query does not say; exactly one
        of the three categories is required. Synonyms, unfinished words and typos change the text, not what is meant.
    """
    u = rng.random(12).tolist()
    required = [UNASKED] * len(ASKABLE)
    leaf = int(attributes.leaf[i])
    kind, refinement = LEAVES[leaf]
    words: list[str] = []
    if u[0] >= rates.head:
        words = _modifiers(attributes, i, required, u[1:5])
    if u[5] < rates.middle:
        required[0] = int(MIDDLE_OF[leaf])
        words.append(MIDDLES[required[0]])
    elif refinement and u[6] < rates.refined:
        required[2] = leaf
        words += [refinement, KINDS[kind].noun]
    else:
        required[1] = kind
        words.append(KINDS[kind].noun)
    if u[7] < rates.synonym:
        at = u[7] / rates.synonym
        words = [SYNONYMS[word][int(at * len(SYNONYMS[word]))] if word in SYNONYMS else word for word in words]
    text = " ".join(words)
    if u[8] < rates.typo:
        text = misspell(text, u[8] / rates.typo, u[9])
    if u[10] < rates.partial:
        text = unfinished(text, u[11])
    return text, tuple(required)


def _modifiers(attributes: Attributes, i: int, required: list[int], u: list[float]) -> list[str]:
    """One to three attributes of item i by name, entered in `required`."""
    values = {name: int(getattr(attributes, name)[i]) for name in _NAMES if name != "theme"}
    values["theme"] = int(attributes.themes[i, int(u[0] * WORDS_PER_ITEM)])
    asked = {_ASKED[int(x * len(_ASKED))] for x in u[1:]}
    if values["pattern"] == PLAIN and "pattern" in asked:  # nobody types that
        asked = asked - {"pattern"} or {"colour"}
    modifiers = []
    for column in range(NUM_CATEGORIES, len(ASKABLE)):
        name = ASKABLE[column]
        if name in asked:
            required[column] = values[name]
            modifiers.append(_NAMES[name][values[name]])
    return modifiers


def misspell(text: str, where: float, how: float) -> str:
    """The text with one slip of the finger in a word of four letters or more, never at its first letter.

    Two letters swapped, one dropped, doubled, or replaced by its neighbour on the keyboard. A text without such a word
    stays as it is.

    Args:
        where, how: in [0, 1): which letter, and which slip.
    """
    starts = [at for at in range(len(text)) if at == 0 or text[at - 1] == " "]
    places = [
        at
        for start, end in zip(starts, [*(s - 1 for s in starts[1:]), len(text)], strict=True)
        if end - start >= 4
        for at in range(start + 1, end)
        if text[at] in _NEIGHBOURS
    ]
    if not places:
        return text
    at = places[int(where * len(places))]
    before, letter, after = text[:at], text[at], text[at + 1 :]
    if how < 0.25 and after and after[0] not in (" ", letter):
        return before + after[0] + letter + after[1:]
    if how < 0.5:
        return before + after
    if how < 0.75:
        return before + letter + letter + after
    near = _NEIGHBOURS[letter]
    return before + near[int((how - 0.75) * 4 * len(near))] + after


def unfinished(text: str, where: float) -> str:
    """The text without the end of its last word; three letters or more of it stay, `where` in [0, 1) says how many."""
    last = len(text) - text.rfind(" ") - 1
    if last < 4:
        return text
    return text[: len(text) - last + 3 + int(where * (last - 3))]


def relevance(
    required: Int[np.ndarray, "*R 9"] | tuple[int, ...],
    attributes: Attributes,
    items: Int[np.ndarray, "*R K"] | None = None,
) -> Float32[np.ndarray, "*R K"]:
    """How far items are what a query means: the share of the required values that an item has, 0 in another category.

    Args:
        required: one query's [9] as `query` returns it, or [R, 9] of R queries.
        items: whom to judge: [n], or [R, K] with R queries; all by default (one query only).

    Returns: in [0, 1], of the shape of `items`.
    """
    wanted = np.asarray(required)[..., None, :]
    items = np.arange(len(attributes)) if items is None else items
    leaves = attributes.leaf[items]
    columns = [MIDDLE_OF[leaves], KIND_OF[leaves], leaves]
    met = [wanted[..., c] == column for c, column in enumerate(columns)]
    in_category = met[0] | met[1] | met[2]
    share = np.ones(items.shape, np.float32)
    for c in range(NUM_CATEGORIES, len(ASKABLE)):
        if ASKABLE[c] == "theme":
            share += (wanted[..., c, None] == attributes.themes[items]).any(-1)
        else:
            share += wanted[..., c] == getattr(attributes, ASKABLE[c])[items]
    return np.where(in_category, share / (wanted != UNASKED).sum(-1), 0.0).astype(np.float32)

"""Pictures of the generated market: small, the same for the same attributes, and their style shows."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from penchant.bazaar import pictures, words
from penchant.bazaar.pictures import SIZE, STYLES, draw, style_of
from penchant.bazaar.words import Attributes, compose

KINDS = len(words.KINDS)


@pytest.fixture(scope="module")
def attributes() -> Attributes:
    """One item of every kind."""
    return compose(np.random.default_rng(6), np.arange(KINDS))


def pixels(attributes: Attributes, i: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(draw(attributes, i))), np.float32)


def item(**changes: float) -> Attributes:
    """One typical item, a striped blue mug, with some attributes changed."""
    values = {
        "leaf": [leaf for _, _, leaf in words.category_tree(KINDS)].index("mug"),
        "colour": words.COLOURS.index("blue"),
        "pattern": words.PATTERNS.index("striped"),
        **dict.fromkeys(("hue", "shade"), 0.0),
        **dict.fromkeys(("density", "roundness", "backdrop", "fill"), 0.5),
        **changes,
    }
    base = compose(np.random.default_rng(0), np.zeros(1, np.int32))
    return replace(base, **{name: np.array([v], getattr(base, name).dtype) for name, v in values.items()})


def test_every_kind_has_a_small_square_picture(attributes: Attributes) -> None:
    for i in range(KINDS):
        data = draw(attributes, i)
        assert len(data) <= 6_000
        picture = Image.open(io.BytesIO(data))
        assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (SIZE, SIZE))


def test_every_silhouette_is_some_kinds_and_no_two_are_the_same() -> None:
    shapes = pictures._SHAPES
    assert {kind.shape for kind in words.KINDS} == set(shapes)
    assert len({str(layers) for layers in shapes.values()}) == len(shapes) >= 100


def test_every_silhouette_has_a_part_in_the_items_own_colour() -> None:
    assert [name for name, layers in pictures._SHAPES.items() if all(layer[0] != "body" for layer in layers)] == []


def test_the_same_attributes_draw_the_same(attributes: Attributes) -> None:
    again = compose(np.random.default_rng(6), np.arange(KINDS))
    assert all(draw(attributes, i) == draw(again, i) for i in range(0, KINDS, 20))


def test_what_is_only_said_does_not_show() -> None:
    other = replace(item(), brand=item().brand + 1, material=item().material + 1, themes=item().themes + 1)
    assert draw(item(), 0) == draw(other, 0)
    np.testing.assert_array_equal(style_of(item()), style_of(other))


def test_style_is_standardised_over_typical_items() -> None:
    rng = np.random.default_rng(9)
    style = style_of(compose(rng, rng.integers(0, len(words.LEAVES), 20_000)))
    assert style.shape == (20_000, len(STYLES))
    # Five standard errors of a mean of 20,000, and as much for the deviation.
    np.testing.assert_allclose(style.mean(0), 0.0, atol=5 / np.sqrt(20_000))
    np.testing.assert_allclose(style.std(0), 1.0, atol=5 / np.sqrt(20_000))


CHANGES = {
    "red-green": ({"colour": words.COLOURS.index("red")}, {"colour": words.COLOURS.index("teal")}),
    "yellow-blue": ({"hue": -1.0}, {"hue": 1.0}),
    "lightness": ({"shade": -1.0}, {"shade": 1.0}),
    "saturation": ({"colour": words.COLOURS.index("grey")}, {"colour": words.COLOURS.index("blue")}),
    "pattern": ({"density": 0.0}, {"density": 1.0}),
    "roundness": ({"roundness": 0.0}, {"roundness": 1.0}),
    "backdrop": ({"backdrop": 0.0}, {"backdrop": 1.0}),
    "fill": ({"fill": 0.0}, {"fill": 1.0}),
}


@pytest.mark.parametrize("style", STYLES)
def test_every_style_changes_the_picture(style: str) -> None:
    low, high = (item(**changes) for changes in CHANGES[style])
    column = STYLES.index(style)
    assert abs(style_of(high)[0, column] - style_of(low)[0, column]) > 0.5
    # A JPEG of the same thing differs by less than one level on average.
    assert np.abs(pixels(high, 0) - pixels(low, 0)).mean() > 2.0


@pytest.mark.parametrize("pattern", range(len(words.PATTERNS)))
def test_every_pattern_looks_different(pattern: int) -> None:
    mine = pixels(item(pattern=pattern), 0)
    others = [pixels(item(pattern=other), 0) for other in range(len(words.PATTERNS)) if other != pattern]
    assert min(np.abs(mine - other).mean() for other in others) > 1.5


def test_light_colour_words_are_lighter_pictures() -> None:
    centre = slice(SIZE // 2 - 8, SIZE // 2 + 8)
    seen = {
        colour: pixels(item(colour=words.COLOURS.index(colour), pattern=words.PLAIN), 0)[centre, centre].mean()
        for colour in ("black", "navy", "blue", "white")
    }
    assert seen["black"] < seen["navy"] < seen["blue"] < seen["white"]


def test_a_straight_reading_of_the_pixels_tells_the_style() -> None:
    """Linear regression on coarse pixels, on items it was not fitted to."""
    rng = np.random.default_rng(2)
    items = compose(rng, np.zeros(160, np.int32))
    coarse = np.stack([pixels(items, i).reshape(14, 8, 14, 8, 3).mean((1, 3)).ravel() for i in range(160)]) / 255
    style = style_of(items)
    mean = coarse[:120].mean(0)
    kernel = (coarse - mean) @ (coarse[:120] - mean).T
    weights = np.linalg.solve(kernel[:120] + 0.3 * np.eye(120), style[:120] - style[:120].mean(0))
    error = style[120:] - style[:120].mean(0) - kernel[120:] @ weights
    explained = dict(zip(STYLES, 1 - error.var(0) / style[120:].var(0), strict=True))
    assert min(explained[name] for name in ("red-green", "yellow-blue", "roundness", "backdrop")) > 0.7

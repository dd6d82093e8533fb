"""Pictures of the generated market's items: simple, and their style is all there to see.

An item's silhouette is its leaf's (`shapes.json`), a few layers of plain shapes on a square of 100 units. Everything
else is its style: colour, pattern, corners, background and size, the eight numbers of `style_of`.
"""

from __future__ import annotations

import colorsys
import io
import json
import math
from functools import cache
from importlib.resources import files

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from penchant.bazaar.words import (
    COLOUR_HSL,
    KIND_OF,
    KINDS,
    LEAVES,
    PATTERNS,
    PLAIN,
    Attributes,
    compose,
)

STYLES = ["red-green", "yellow-blue", "lightness", "saturation", "pattern", "roundness", "backdrop", "fill"]
"""The columns of `style_of`; the first two are the colour's chroma times the cosine and the sine of its hue."""

SIZE = 112
"""Width and height of a picture, in pixels."""
OVERSAMPLING = 3
CANVAS = SIZE * OVERSAMPLING
QUALITY = 88

HUE_RANGE, SHADE_RANGE = 18.0, 0.13
"""How far a picture's colour lies from what its word stands for, at most: degrees, and lightness."""

_SHAPES: dict[str, list[list]] = json.loads(files("penchant.bazaar").joinpath("shapes.json").read_text("utf-8"))
_OMBRE = PATTERNS.index("ombre")

Colour = tuple[int, int, int]
Points = Float64[np.ndarray, "points 2"]


def _hsl(attributes: Attributes) -> Float32[np.ndarray, "N 3"]:
    """[n, 3]: hue in degrees, saturation and lightness of the pictures' main colours."""
    hsl = COLOUR_HSL[attributes.colour].copy()
    hsl[:, 0] += HUE_RANGE * attributes.hue
    # Less room near black and white, where lightness is bounded.
    hsl[:, 2] += SHADE_RANGE * attributes.shade * np.minimum(1.0, 4.0 * np.minimum(hsl[:, 2], 1.0 - hsl[:, 2]))
    return hsl


def _raw_style(attributes: Attributes) -> Float32[np.ndarray, "N 8"]:
    hue, saturation, lightness = _hsl(attributes).T
    chroma = saturation * (1.0 - np.abs(2.0 * lightness - 1.0))
    radians = np.deg2rad(hue)
    busy = np.where(attributes.pattern == PLAIN, 0.0, 0.3 + 0.7 * attributes.density)
    busy = np.where(attributes.pattern == _OMBRE, 0.2, busy)
    columns = [
        chroma * np.cos(radians),
        chroma * np.sin(radians),
        lightness,
        chroma,
        busy,
        attributes.roundness,
        attributes.backdrop,
        attributes.fill,
    ]
    return np.stack(columns, axis=1).astype(np.float32)


@cache
def _typical() -> tuple[Float32[np.ndarray, " 8"], Float32[np.ndarray, " 8"]]:
    """Mean and standard deviation of each raw style over 20,000 items of every leaf."""
    leaves = np.arange(20_000, dtype=np.int32) % len(LEAVES)
    raw = _raw_style(compose(np.random.default_rng(0), leaves))
    return raw.mean(0), raw.std(0)


def style_of(attributes: Attributes) -> Float32[np.ndarray, "N 8"]:
    """[n, 8]: what the pictures show, in the order of `STYLES`; mean 0 and standard deviation 1 over typical items."""
    mean, deviation = _typical()
    return (_raw_style(attributes) - mean) / deviation


def draw(attributes: Attributes, i: int) -> bytes:
    """Item i's picture: a JPEG of `SIZE` by `SIZE` pixels, the same for the same attributes."""
    hue, saturation, lightness = (float(x) for x in _hsl(_one(attributes, i))[0])
    roundness, fill = float(attributes.roundness[i]), float(attributes.fill[i])
    paints = _palette(hue, saturation, lightness)
    thing = Image.new("RGB", (CANVAS, CANVAS), paints["body"])
    whole, body = Image.new("L", thing.size), Image.new("L", thing.size)
    pens = ImageDraw.Draw(thing), ImageDraw.Draw(whole), ImageDraw.Draw(body)
    for paint, kind, *numbers in _SHAPES[KINDS[KIND_OF[attributes.leaf[i]]].shape]:
        fills = paints[paint], 255, 255 if paint == "body" else 0
        for pen, colour in zip(pens, fills, strict=True):
            _layer(pen, kind, numbers, colour, roundness, 0.64 + 0.34 * fill)
    pattern = _pattern(int(attributes.pattern[i]), float(attributes.density[i]))
    if pattern is not None:
        thing.paste(paints["motif"], mask=ImageChops.multiply(pattern, body))
    thing.paste((255, 255, 255), mask=_light())
    thing.paste((0, 0, 0), mask=_dark())
    thing, whole = thing.reduce(OVERSAMPLING), whole.reduce(OVERSAMPLING)
    picture = _background(float(attributes.backdrop[i]), roundness)
    shadow = (
        ImageChops.offset(whole, 2, 4).filter(ImageFilter.GaussianBlur(2.5)).point([x * 2 // 5 for x in range(256)])
    )
    picture.paste((20, 20, 40), mask=shadow)
    picture.paste(thing, mask=whole)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _rgb(hue: float, saturation: float, lightness: float) -> Colour:
    red, green, blue = colorsys.hls_to_rgb(hue / 360.0 % 1.0, min(max(lightness, 0.0), 1.0), saturation)
    return round(255 * red), round(255 * green), round(255 * blue)


def _palette(hue: float, saturation: float, lightness: float) -> dict[str, Colour]:
    """The colours that a silhouette's layers name: tones of the item's own, and some that never change."""
    light = lightness > 0.5
    return {
        "body": _rgb(hue, saturation, lightness),
        "tint": _rgb(hue, saturation, lightness + 0.13),
        "shade": _rgb(hue, saturation, lightness - 0.13 * min(1.0, 2.0 * lightness)),
        "deep": _rgb(hue, saturation * 0.8, lightness * 0.55),
        "motif": _rgb(hue + 18.0, saturation, lightness - 0.27 if light else lightness + 0.3),
        "wood": (181, 138, 94),
        "metal": (176, 182, 190),
        "leaf": (98, 148, 92),
        "water": (188, 218, 228),
        "flame": (246, 190, 80),
        "pale": (246, 241, 230),
        "ink": (52, 50, 58),
    }


def _layer(
    pen: ImageDraw.ImageDraw, kind: str, numbers: list[float], colour: int | Colour, roundness: float, scale: float
) -> None:
    """One layer of a silhouette: a polygon or box whose corners are rounded, an oval, a line, a ring or an arc.

    Lines, rings and arcs begin with their width; arcs end with two angles in degrees.
    """
    unit = scale * CANVAS / 100.0
    match kind:
        case "poly":
            pen.polygon(_rounded(_placed(numbers, unit), roundness), colour)
        case "box":
            x0, y0, x1, y1 = numbers
            pen.polygon(_rounded(_placed([x0, y0, x1, y0, x1, y1, x0, y1], unit), roundness), colour)
        case "oval":
            pen.ellipse(_placed(numbers, unit).ravel().tolist(), colour)
        case "ring":
            box = _placed(numbers[1:], unit).ravel().tolist()
            pen.ellipse(box, outline=colour, width=round(numbers[0] * unit))
        case "arc":
            box = _placed(numbers[1:5], unit).ravel().tolist()
            pen.arc(box, *numbers[5:], fill=colour, width=round(numbers[0] * unit))
        case _:
            points, radius = _placed(numbers[1:], unit), numbers[0] * unit / 2
            pen.line(points.ravel().tolist(), colour, round(2 * radius), joint="curve")
            for x, y in (points[0], points[-1]):
                pen.ellipse([x - radius, y - radius, x + radius, y + radius], colour)


def _placed(numbers: list[float], unit: float) -> Points:
    """Points of the square of 100 units on the canvas, scaled about its middle."""
    return (np.array(numbers).reshape(-1, 2) - 50.0) * unit + CANVAS / 2


_STEPS = np.linspace(0.0, 1.0, 7)[:, None, None]


def _rounded(corners: Points, roundness: float) -> list[float]:
    """The polygon with each corner replaced by a parabola between points of its two edges, half-way at roundness 1."""
    cut = 0.03 + 0.47 * roundness
    before = corners + cut * (np.roll(corners, 1, axis=0) - corners)
    after = corners + cut * (np.roll(corners, -1, axis=0) - corners)
    curve = (1 - _STEPS) ** 2 * before + 2 * _STEPS * (1 - _STEPS) * corners + _STEPS**2 * after
    return curve.swapaxes(0, 1).ravel().tolist()


def _pattern(pattern: int, density: float) -> Image.Image | None:
    """A mask of the whole canvas, white where the motif is; None where there is none."""
    if pattern == PLAIN:
        return None
    if pattern == _OMBRE:
        return Image.linear_gradient("L").resize((CANVAS, CANVAS))
    period = round(CANVAS / (5.0 + 9.0 * density))
    tile = _tile(PATTERNS[pattern], period)
    repeats = -(-CANVAS // period)
    return Image.fromarray(np.tile(tile, (repeats, repeats))[:CANVAS, :CANVAS])


@cache
def _tile(pattern: str, period: int) -> UInt8[np.ndarray, "period period"]:
    """One period of a pattern, [period, period]; its edges fit each other."""
    image = Image.new("L", (period, period))
    pen = ImageDraw.Draw(image)
    half, p = period // 2, period - 1
    match pattern:
        case "striped":
            pen.rectangle([0, 0, p, half], 255)
        case "dotted":
            pen.ellipse([p * 0.22, p * 0.22, p * 0.78, p * 0.78], 255)
        case "checked":
            pen.rectangle([0, 0, p, half], 130)
            pen.rectangle([0, 0, half, p], 130)
            pen.rectangle([0, 0, half, half], 255)
        case "zigzag":
            pen.line([-half, period, half, 0, period + half, period], 255, max(2, round(period * 0.3)))
            pen.line([-half, 0, half, -period, period + half, 0], 255, max(2, round(period * 0.3)))
            pen.line([-half, 2 * period, half, period, period + half, 2 * period], 255, max(2, round(period * 0.3)))
        case _:
            for k in range(5):
                x, y = p / 2 + 0.24 * p * math.sin(k * 1.2566), p / 2 - 0.24 * p * math.cos(k * 1.2566)
                pen.ellipse([x - p * 0.17, y - p * 0.17, x + p * 0.17, y + p * 0.17], 255)
            pen.ellipse([p * 0.39, p * 0.39, p * 0.61, p * 0.61], 0)
    return np.asarray(image)


@cache
def _light() -> Image.Image:
    """Where light falls, from above and left: strongest at the corner, none from the middle on."""
    y, x = np.mgrid[0:CANVAS, 0:CANVAS] / CANVAS
    return Image.fromarray((70 * np.clip(0.95 - x - 0.8 * y, 0.0, 1.0)).astype(np.uint8))


@cache
def _dark() -> Image.Image:
    """Where light does not fall."""
    y, x = np.mgrid[0:CANVAS, 0:CANVAS] / CANVAS
    return Image.fromarray((80 * np.clip(0.8 * x + y - 0.95, 0.0, 1.0)).astype(np.uint8))


def _background(backdrop: float, roundness: float) -> Image.Image:
    """A backdrop, and on it a lighter plate whose corners are as round as the object's."""
    level = 0.42 + 0.49 * backdrop
    ground = Image.new("RGB", (CANVAS, CANVAS), _rgb(35.0, 0.07, level))
    _layer(ImageDraw.Draw(ground), "box", [2.0, 2.0, 98.0, 98.0], _rgb(40.0, 0.1, level + 0.07), roundness, 1.0)
    return ground.reduce(OVERSAMPLING)


def _one(attributes: Attributes, i: int) -> Attributes:
    return Attributes(**{name: getattr(attributes, name)[i : i + 1] for name in Attributes.__dataclass_fields__})

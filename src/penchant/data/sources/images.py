"""Pictures of the items: bytes as they came, kept only if they can be decoded; and decoding them, for all who do."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps

from penchant.data.sources.raw import SAMPLES, Refused

MAX_PIXELS = 64_000_000
"""A picture of more is refused unread: a small file can unpack to more memory than there is."""

MAX_BYTES = 16 << 20
"""A picture file of more is refused."""

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")
"""What is read. Others of Pillow's start programs (EPS) or are no pictures of things that are sold."""

_TOO_LONG = f"image is over {MAX_BYTES >> 20} MB"
_FIX = "The item is kept without a picture."


def load_images(
    values: Sequence[Any], folder: Path, places: Callable[[Sequence[int]], list[str]]
) -> tuple[pa.ChunkedArray, list[Refused]]:
    """Read and check a column of pictures.

    Args:
        values: encoded pictures (bytes), or paths relative to `folder`, which they must not leave.
        places: names the places of rows (from 1).
    Returns: binary column, NULL where there is no readable picture; what was refused.
    """
    root = folder.resolve()
    kept: list[bytes | None] = []
    wrong: dict[str, list[tuple[int, str]]] = {}
    for row, value in enumerate(values, 1):
        content, why = (None, "") if value is None or value == "" else _content(value, root)
        if why:
            shown = f"{len(value)} bytes" if isinstance(value, bytes) else str(value)[:80]
            wrong.setdefault(why, []).append((row, shown))
        kept.append(content)
    refused = []
    for why, rows in wrong.items():
        first = rows[:SAMPLES]
        where = places([row for row, _ in first])
        shown = tuple(f"{place}: image = {value!r}" for place, (_, value) in zip(where, first, strict=True))
        refused.append(Refused(why, len(rows), shown, _FIX))
    # One chunk holds at most 2 GB.
    chunks = [pa.array(kept[i : i + 64], pa.binary()) for i in range(0, len(kept), 64)]
    return pa.chunked_array(chunks, pa.binary()), refused


def _content(value: object, root: Path) -> tuple[bytes | None, str]:
    """The picture's bytes, or why there are none."""
    if isinstance(value, dict):  # as the datasets library writes pictures to Parquet
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        if "://" in value:
            return None, "image is a web address, not a file"
        try:
            path = (root / value).resolve()
            if not path.is_relative_to(root):
                return None, "image is outside the items' folder"
            if not path.is_file():
                return None, "image file is missing"
            if path.stat().st_size > MAX_BYTES:
                return None, _TOO_LONG
            value = path.read_bytes()
        except (OSError, ValueError, RuntimeError):  # no permission; a name no file can have; a ring of links
            return None, "image file cannot be read"
    if not isinstance(value, bytes):
        return None, "image is neither a path nor bytes"
    why = undecodable(value)
    return (None, why) if why else (value, "")


def undecodable(content: bytes) -> str:
    """Why the picture cannot be used, empty if the whole of it can be read.

    JPEG is decoded at a fraction of its size: that still reads every byte.
    """
    if len(content) > MAX_BYTES:
        return _TOO_LONG
    if not content:
        return "image is empty"
    try:
        with _quiet(), _unread(content) as image:
            image.draft("RGB", (32, 32))
            image.load()
    except Image.DecompressionBombError:
        return f"image has over {MAX_PIXELS // 1_000_000} million pixels"
    except Exception:
        # A decoder that is given broken bytes can raise nearly anything, and no picture may stop a catalogue.
        return "image cannot be decoded"
    return ""


def open_picture(data: bytes, draft: int = 0) -> Image.Image | None:
    """The picture as upright RGB, transparency on white, the first frame of a moving one; None where it cannot be read.

    Refused as unreadable too: more than MAX_PIXELS.

    Args:
        draft: a JPEG that is to be shrunk anyway is unpacked quicker and smaller, to no less than this width and
            height; 0 = whole.
    """
    try:
        with _quiet():
            picture = _unread(data)
            if draft:
                picture.draft("RGB", (draft, draft))
            picture = ImageOps.exif_transpose(picture)
            if picture.mode.startswith("I"):  # 16 bits of grey, which `convert` would cut off at 255
                picture = Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
            if picture.has_transparency_data:
                layer = picture.convert("RGBA")
                picture = Image.new("RGB", layer.size, "white")
                picture.paste(layer, mask=layer.getchannel("A"))
            return picture.convert("RGB")
    except Exception:
        return None  # as in `undecodable`


def small_jpeg(encoded: bytes, size: tuple[int, int], quality: int = 80) -> bytes | None:
    """The picture (`open_picture`) within this width and height, as JPEG; None where it cannot be read."""
    picture = open_picture(encoded, draft=2 * max(size))
    if picture is None:
        return None
    picture.thumbnail(size)
    small = io.BytesIO()
    picture.save(small, format="JPEG", quality=quality)
    return small.getvalue()


def _unread(content: bytes) -> Image.Image:
    """The picture before its pixels are unpacked, refused if there are too many."""
    picture = Image.open(io.BytesIO(content), formats=FORMATS)
    if picture.width * picture.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    return picture


@contextmanager
def _quiet() -> Iterator[None]:
    """Pillow's own bound is wider than ours, and a mended picture is no matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

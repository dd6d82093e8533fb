"""Pictures of the items: bytes as they came, kept only if they can be decoded."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from penchant.data.sources.raw import SAMPLES, Refused

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
        content, why = (None, "") if not value else _content(value, root)
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
    chunks = [pa.array(kept[i : i + 4096], pa.binary()) for i in range(0, len(kept), 4096)]
    return pa.chunked_array(chunks, pa.binary()), refused


def _content(value: object, root: Path) -> tuple[bytes | None, str]:
    """The picture's bytes, or why there are none."""
    if isinstance(value, dict):  # as the datasets library writes pictures to Parquet
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        if "://" in value:
            return None, "image is a web address, not a file"
        path = (root / value).resolve()
        if not path.is_relative_to(root):
            return None, "image is outside the items' folder"
        if not path.is_file():
            return None, "image file is missing"
        value = path.read_bytes()
    if not isinstance(value, bytes):
        return None, "image is neither a path nor bytes"
    return (value, "") if decodes(value) else (None, "image cannot be decoded")


def decodes(content: bytes) -> bool:
    """Whether the whole picture can be read. JPEG is decoded at a fraction of its size: that still reads every byte."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.draft("RGB", (32, 32))
            image.load()
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    return True

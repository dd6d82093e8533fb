"""Amazon's products: what the metadata of the 2014, 2018 and 2023 releases say of them, and pictures from a folder."""

from __future__ import annotations

import ast
import html
import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from penchant.data.sources.formats import plain_file
from penchant.data.sources.images import load_images
from penchant.data.sources.raw import SAMPLES, Raw, Refused
from penchant.errors import DataError

LONGEST = 10_000_000
"""Bytes of a line. Products have some thousand: a file with a longer line has not one product a line."""

LONGEST_LITERAL = 200_000
"""Bytes of a line that is read as a Python literal, which can take a thousand times as much memory."""

COLUMNS = {
    "item_id": pa.string(),
    "title": pa.string(),
    "text": pa.string(),
    "category_path": pa.string(),
    "brand": pa.string(),
    "price": pa.float64(),
    "image_url": pa.string(),
}

SCRIPT = "getTime"
"""Some titles of 2018 are not the product's but the script of its page, which has this in it."""

_FIX = "Each line is one JSON object, or one Python literal as in 2014."


def read_products(raw: Raw, path: Path, only: Collection[str] | None) -> None:
    """Make the products of a metadata file the items of `raw`.

    Args:
        path: one product a line, as JSON or as a Python literal; plain or compressed.
        only: the ids to keep; None keeps all.

    Raises:
        DataError: no such file, or no metadata of a known release.
    """
    plain, _ = plain_file(raw.work, path, "file_metadata")
    columns: dict[str, list[Any]] = {column: [] for column in COLUMNS}
    keys: set[str] = set()
    lines, outside, scripts = [], 0, 0
    wrong: dict[str, list[str]] = {}
    with plain.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST + 1), b""), 1):
            if len(line) > LONGEST:
                raise DataError(f"over {LONGEST:,} bytes long", where=f"{path.name} line {number}", fix=_FIX)
            if not line.strip():
                continue
            record = _parse(line)
            if isinstance(record, str):
                wrong.setdefault(record, []).append(f"{path.name} line {number}: {line[:80]!r}")
                continue
            keys |= record.keys()
            product = _product(record)
            if only is not None and product["item_id"] not in only:
                outside += 1
                continue
            if SCRIPT in (product["title"] or ""):
                product["title"] = None
                scripts += 1
            lines.append(number)
            for column, values in columns.items():
                values.append(product[column])
    raw.refused += [Refused(why, len(at), tuple(at[:SAMPLES]), _FIX) for why, at in wrong.items()]
    found = ", ".join(sorted(map(str, keys))) or next((at[0] for at in wrong.values()), "nothing")
    raw.notes.append(f"{path.name} was read as metadata of {_release(keys, found, path)}, by its keys.")
    if scripts:
        raw.notes.append(f"{scripts:,} titles of {path.name} are a web page's script and were left out.")
    if outside:
        raw.notes.append(f"{outside:,} products of {path.name} without a review in the 5-core were left out.")
    raw.locate["items"] = lambda rows: [f"{path.name} line {lines[row - 1]}" for row in rows]
    raw.items = pa.table({column: pa.array(values, COLUMNS[column]) for column, values in columns.items()})


def add_pictures(raw: Raw, folder: Path) -> None:
    """Give the items of `raw` the pictures <item_id>.jpg of a folder.

    Raises:
        DataError: no such folder.
    """
    if not folder.is_dir():
        raise DataError("no such folder", where=folder, fix="--images wants a folder of <asin>.jpg.")
    if raw.items is None:
        raise ValueError("products come first")
    ids = raw.items["item_id"].to_pylist()
    there = {path.stem for path in folder.glob("*.jpg")}

    def place(rows: Sequence[int]) -> list[str]:
        return [f"{folder.name}/{ids[row - 1]}.jpg" for row in rows]

    images, refused = load_images([f"{i}.jpg" if i in there else None for i in ids], folder, place)
    raw.refused += refused
    raw.notes.append(f"{len(ids) - images.null_count:,} of {len(ids):,} products have a picture.")
    raw.items = raw.items.append_column("image", images)


def _parse(line: bytes) -> dict[str, Any] | str:
    """The object of a line, or why there is none. Literals are read, never run."""
    try:
        content = line.decode()
    except UnicodeDecodeError:
        return "broken line: letters that are not UTF-8"
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        try:
            record = ast.literal_eval(content) if len(line) <= LONGEST_LITERAL else None
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            record = None
    return record if isinstance(record, dict) else "neither a JSON object nor a Python literal of one"


def _release(keys: Collection[str], found: str, path: Path) -> str:
    """Which release has these keys. Reviews, which name products too, are told by their users."""
    if "reviewerID" not in keys and "user_id" not in keys:
        if "parent_asin" in keys:
            return "2023"
        if "asin" in keys:
            return "2018" if "category" in keys else "2014"
    fix = "A product has asin (2014, 2018) or parent_asin (2023), and no user."
    raise DataError(f"not Amazon's metadata: found {found}", where=path.name, fix=fix)


def _product(record: dict[str, Any]) -> dict[str, Any]:
    """A product of any release, under the names of `COLUMNS`."""
    text = [_plain(record.get(key)) for key in ("description", "feature", "features")]
    return {
        "item_id": _plain(record.get("parent_asin")) or _plain(record.get("asin")),
        "title": _plain(record.get("title")),
        "text": " ".join(t for t in text if t) or None,
        "category_path": _category_path(record),
        "brand": _plain(record.get("brand")) or _plain(record.get("store")),
        "price": _price(record.get("price")),
        "image_url": _image_url(record),
    }


_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")


def _plain(value: object) -> str | None:
    """A text or a list of texts without HTML and doubled spaces; None if nothing is left."""
    parts = [v for v in value if isinstance(v, str)] if isinstance(value, list) else [value]
    joined = html.unescape(_TAG.sub(" ", " ".join(p for p in parts if isinstance(p, str))))
    # JSON may hold halves of letters, which no text can.
    return " ".join(joined.encode("utf-8", "ignore").decode().split()) or None


def _category_path(record: dict[str, Any]) -> str | None:
    """The longest of the paths of 2014 (the first of equals), the one path of 2018 and 2023, or the main category."""
    paths = record.get("categories") or record.get("category") or []
    if not isinstance(paths, list) or not all(isinstance(path, list) for path in paths):
        paths = [paths]
    levels = [[level for level in map(_plain, path) if level] for path in paths if isinstance(path, list)]
    main = _plain(record.get("main_category")) or _plain(record.get("main_cat"))
    return " > ".join(max(levels, key=len, default=[])) or main


_AMOUNT = re.compile(r"\$?\s*(\d[\d,]{0,11}(?:\.\d{1,4})?)")


def _price(value: object) -> float | None:
    """Dollars; None for a range, or what else 2018 and 2023 have in its place."""
    if isinstance(value, str):
        amount = _AMOUNT.fullmatch(value.strip())
        value = float(amount[1].replace(",", "")) if amount else None
    return float(value) if isinstance(value, (int, float)) and 0 <= value < 1e9 else None


def _image_url(record: dict[str, Any]) -> str | None:
    """The main picture's address, large where there is a choice."""
    pictures = record.get("images")
    pictures = [p for p in pictures if isinstance(p, dict)] if isinstance(pictures, list) else []
    for picture in sorted(pictures, key=lambda p: p.get("variant") != "MAIN"):
        for size in ("large", "hi_res", "thumb"):
            if url := _plain(picture.get(size)):
                return url
    for key in ("imUrl", "imageURLHighRes", "imageURL", "image"):
        value = record.get(key)
        if url := _plain(value[0] if isinstance(value, list) and value else value):
            return url
    return None

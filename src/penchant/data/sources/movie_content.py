"""What makes a movie more than a number: its genres and abstract as text, its poster as an image."""

from __future__ import annotations

import gzip
import json
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pyarrow as pa

from penchant.data.sources.formats import BAD_ZIP
from penchant.data.sources.images import load_images
from penchant.data.sources.raw import Raw
from penchant.errors import DataError


def add_content(raw: Raw, posters: Path | None, abstracts: Path | None) -> None:
    """Give the movies of `raw` text from genres and abstracts, and images from posters.

    Raises:
        DataError: a file cannot be read.
    """
    items = raw.items
    if items is None:
        raise ValueError("movies come first")
    ids = items["item_id"].to_pylist()
    abstract = _read_abstracts(abstracts) if abstracts else {}
    if abstracts:
        raw.notes.append(f"{sum(i in abstract for i in ids):,} of {len(ids):,} movies have an abstract.")
    texts = []
    for item, genres in zip(ids, items["genres"].to_pylist(), strict=True):
        parts = [genres.replace("|", ", ") + "." if genres else "", first_sentences(abstract.get(item, ""), 2)]
        texts.append(" ".join(p for p in parts if p) or None)
    items = items.append_column("text", pa.array(texts, pa.string()))
    if posters:
        poster = _read_posters(posters, set(ids))

        def place(rows: Sequence[int]) -> list[str]:
            return [f"{posters.name}/{ids[row - 1]}.jpg" for row in rows]

        images, refused = load_images([poster.get(i) for i in ids], posters.parent, place)
        raw.refused += refused
        raw.notes.append(f"{len(ids) - images.null_count:,} of {len(ids):,} movies have a poster.")
        items = items.append_column("image", images)
    raw.items = items


def _read_abstracts(path: Path) -> dict[str, str]:
    try:
        content = path.read_bytes()
        value = json.loads(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise DataError(
            f"cannot be read ({error})", where=path, fix="--abstracts wants JSON: movie_id -> text."
        ) from error
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise DataError("not an object of texts", where=path, fix="--abstracts wants JSON: movie_id -> text.")
    # JSON can spell half a letter, which no file can hold.
    return {item: text.encode(errors="replace").decode() for item, text in value.items()}


def _read_posters(path: Path, ids: set[str]) -> dict[str, bytes]:
    fix = "--posters wants a zip or folder of <movie_id>.jpg."
    if path.is_dir():
        return {p.stem: p.read_bytes() for p in sorted(path.glob("*.jpg")) if p.stem in ids}
    try:
        with zipfile.ZipFile(path) as archive:
            stems = {PurePosixPath(n).stem: n for n in archive.namelist() if n.endswith(".jpg")}
            return {stem: archive.read(n) for stem, n in stems.items() if stem in ids}
    except (OSError, *BAD_ZIP) as error:
        raise DataError(f"cannot be read ({error})", where=path, fix=fix) from error


_SHORT = re.compile(
    r"(?:\b[A-Z]|\b(?:Mr|Mrs|Ms|Dr|Jr|Sr|St|vs|Inc|Ltd|Co|No|Vol|Prof|Gen|Lt|Col|Capt|U\.S|a\.k\.a|i\.e|e\.g))\.$"
)


def first_sentences(value: str, count: int) -> str:
    """The first `count` sentences: a full stop after an initial or a common abbreviation ends none."""
    value = " ".join(value.split())
    for end in re.finditer(r"[.!?][\"')\]]*(?= [\"'(\[]?[A-Z0-9])", value):
        if not _SHORT.search(value[: end.end()]):
            count -= 1
            if count == 0:
                return value[: end.end()]
    return value

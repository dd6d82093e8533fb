"""Interests read in words as one HTML file, with the items' pictures inside it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from penchant.data.sources.images import small_jpeg
from penchant.data.store import Store, write_text
from penchant.evaluation.pages import page_template
from penchant.recipes.karma.explain import Explanation, Readability

SIZE = 144, 200
"""Largest width and height of a picture on the page."""
SHOWN = 12
"""Actions of a history that are shown."""


def write_explained(
    explained: Sequence[Explanation],
    store: Store,
    titles: Sequence[str],
    run: str,
    path: Path,
    checked: Readability | None = None,
) -> None:
    """Write the page, whole or not at all. It holds titles and pictures of the catalogue."""
    items = {item for one in explained for part in (one.nearest, one.pictures, one.history[:SHOWN]) for item in part}
    page = page_template(Path(__file__).with_suffix(".html"), {}).render(
        explained=explained,
        titles=titles,
        pictures={item: _uri(picture) for item, picture in small_pictures(store, items).items()},
        data=store.name,
        run=run,
        synthetic=bool(store.manifest.get("synthetic", False)),
        checked="\n".join(checked.lines()) if checked else "",
        window=checked.window if checked else "",
    )
    write_text(path, page)


def small_pictures(store: Store, items: set[int], size: tuple[int, int] = SIZE) -> dict[int, bytes]:
    """Each item's picture as a JPEG within this width and height; empty where there is none that can be read."""
    out = dict.fromkeys(items, b"")
    with pq.ParquetFile(store.path / "items.parquet") as file:
        first = 1
        for batch in file.iter_batches(batch_size=256, columns=["image"]):
            column = pa.Table.from_batches([batch])["image"]
            for item in items & set(range(first, first + len(column))):
                encoded = column[item - first].as_py()
                out[item] = (small_jpeg(encoded, size) if encoded else None) or b""
            first += len(column)
    return out


def _uri(picture: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}" if picture else ""

"""Frozen content vectors of a Store's items: their texts and pictures, each encoded once and kept.

store/vectors/<text or image>/
  values.npy      float16 [I+1, D]  row 0 and rows of items without content are zero
  present.npy     bool [I+1]
  manifest.json   fingerprint, encoder, kind, dim, counts, the first items whose picture could not be read
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from penchant.data.output import alone, into_place
from penchant.data.sources.images import open_picture
from penchant.data.store import MANIFEST, Store, cache_root, write_json
from penchant.encoders.cache import KEY_BYTES, VectorCache, content_key
from penchant.encoders.image import load_image_encoder
from penchant.encoders.text import item_text, load_text_encoder
from penchant.errors import ConfigError, StoreError

Kind = Literal["text", "image"]
Content = str | bytes
# Rows of the catalogue held at a time: texts are small and gain from being sorted by length, pictures are large.
_WINDOW = {"text": 65_536, "image": 256}
_COLUMNS = {"text": ["title", "text"], "image": ["image"]}
_BATCH = {"text": 32, "image": 8}
_NAMED_BROKEN = 10


@runtime_checkable
class Encoder(Protocol):
    """What `TextEncoder` and `ImageEncoder` are to this module."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...

    def encode(self, contents: Sequence[Any], /) -> Float[np.ndarray, "B D"]: ...


@dataclass(frozen=True)
class EncodeSummary:
    """What `encode_store` did for one kind of content.

    Attributes:
        fingerprint: of encoder and contents; "" where no item has such content and nothing was written.
        items: of the catalogue; present + missing + broken.
        present: items with a vector.
        missing: items without such content.
        broken: items whose picture cannot be read or has too many pixels.
        broken_items: the shop's ids of the first of those.
        encoded: distinct contents the encoder saw now; 0 where all were in the cache.
    """

    kind: Kind
    encoder: str
    items: int
    missing: int
    fingerprint: str = ""
    dim: int = 0
    present: int = 0
    broken: int = 0
    broken_items: tuple[str, ...] = ()
    encoded: int = 0
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0

    def __str__(self) -> str:
        broken = f" (first: {', '.join(self.broken_items)})" if self.broken else ""
        return (
            f"{self.kind} by {self.encoder}: {self.present:,} of {self.items:,} items have a vector ({self.dim} wide), "
            f"{self.missing:,} have no {self.kind}, {self.broken:,} could not be read{broken}; "
            f"{self.encoded:,} encoded now in {self.wall_seconds:.1f} s"
        )


def encode_store(
    store: Store,
    *,
    text: str | None = "minilm",
    image: str | None = "efficientnet-lite0",
    device: str = "auto",
    batch_size: int | None = None,
) -> list[EncodeSummary]:
    """Write the vectors of the items' texts (title and further text) and pictures into a Store: `Store.vectors`.

    Vectors are kept by content hash in the cache (`cache.py`), so what was encoded before, for this Store or another,
    is not encoded again, and a killed call goes on where it stopped. Vectors of the same encoder and contents that
    are there already are left alone. A kind that no item has is passed over.

    Args:
        text, image: encoder by short name, Hugging Face name or folder; None = leave this kind out.
        batch_size: contents encoded at a time; bounds memory. It changes no more than the last bit of a number in a
            thousand. None = 32 texts, 8 pictures, which is fastest on a CPU; a GPU wants more.

    Raises:
        ModelUnavailableError: an encoder cannot be had; nothing has been encoded then.
        ConfigError: no such device, or an encoder gives numbers that float16 cannot hold.
        StoreError: another process is encoding the same kind for this Store.
    """
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size={batch_size}", fix="Give 1 or more.")
    encoders: dict[Kind, Encoder] = {}
    # Both before any work, so that a missing one is known at once.
    if text and _any(store, "text"):
        encoders["text"] = load_text_encoder(text, device=device)
    if image and _any(store, "image"):
        encoders["image"] = load_image_encoder(image, device=device)
    named: list[tuple[Kind, str | None]] = [("text", text), ("image", image)]
    return [
        encode_items(store, encoders[kind], batch_size=batch_size or _BATCH[kind])
        if kind in encoders
        else EncodeSummary(kind, name, items=store.num_items, missing=store.num_items)
        for kind, name in named
        if name
    ]


def encode_items(store: Store, encoder: Encoder, *, batch_size: int, flush_s: float = 5.0) -> EncodeSummary:
    """One kind of content by one encoder. See `encode_store`; `flush_s` is the work a kill may lose (`VectorCache`)."""
    kind: Kind = "text" if encoder.kind == "text" else "image"
    wall, cpu = time.perf_counter(), time.process_time()
    cache = VectorCache(cache_root() / "vectors" / encoder.fingerprint, encoder.dim, flush_s=flush_s)
    vectors = store.path / "vectors"
    with alone(vectors / kind, StoreError):
        temporary = vectors / f"{kind}.tmp-{os.getpid()}"
        temporary.mkdir()
        try:
            summary = _write(store, encoder, kind, cache, temporary, batch_size)
            _put(temporary, vectors / kind)
        finally:
            cache.flush()
            shutil.rmtree(temporary, ignore_errors=True)
    return replace(summary, wall_seconds=time.perf_counter() - wall, cpu_seconds=time.process_time() - cpu)


def _write(store: Store, encoder: Encoder, kind: Kind, cache: VectorCache, out: Path, batch_size: int) -> EncodeSummary:
    rows = store.num_items + 1
    values = np.lib.format.open_memmap(out / "values.npy", mode="w+", dtype=np.float16, shape=(rows, encoder.dim))
    present = np.zeros(rows, bool)
    contents_hash = hashlib.sha256()
    encoded, broken, item = 0, [], 1
    with _progress() as progress:
        task = progress.add_task(f"{kind} ({encoder.name})", total=store.num_items)
        for window in _windows(store, kind):
            keys = [content_key(content) if content else None for content in window]
            contents_hash.update(b"".join(key or bytes(KEY_BYTES) for key in keys))
            new = {
                key: content for key, content in zip(keys, window, strict=True) if key and content and key not in cache
            }
            progress.advance(task, len(window) - len(new))
            for batch in _batches(new, batch_size):
                encoded += _encode_batch(encoder, batch, cache)
                progress.advance(task, len(batch))
            known = [(item + i, key) for i, key in enumerate(keys) if key and key in cache]
            broken += [item + i for i, key in enumerate(keys) if key and key not in cache]
            if known:
                at = np.array([i for i, _ in known])
                values[at] = cache.read([key for _, key in known])
                present[at] = True
            item += len(window)
    values.flush()
    np.save(out / "present.npy", present)
    summary = EncodeSummary(
        kind=kind,
        encoder=encoder.name,
        fingerprint=hashlib.sha256(f"{encoder.fingerprint} {contents_hash.hexdigest()}".encode()).hexdigest()[:16],
        dim=encoder.dim,
        items=store.num_items,
        present=int(present.sum()),
        missing=store.num_items - int(present.sum()) - len(broken),
        broken=len(broken),
        broken_items=tuple(store.item_ids[i] for i in broken[:_NAMED_BROKEN]),
        encoded=encoded,
    )
    of_this_call = {"encoded", "wall_seconds", "cpu_seconds"}
    described = {key: value for key, value in asdict(summary).items() if key not in of_this_call}
    write_json(out / MANIFEST, {**described, "encoder_fingerprint": encoder.fingerprint, "store": store.fingerprint})
    return summary


def _encode_batch(encoder: Encoder, batch: list[tuple[bytes, Content]], cache: VectorCache) -> int:
    """Encode a batch into the cache, leaving out pictures that cannot be read; the number encoded."""
    opened = [(key, open_picture(c) if isinstance(c, bytes) else c) for key, c in batch]
    good = [(key, content) for key, content in opened if content is not None]
    if not good:
        return 0
    with np.errstate(over="ignore"):
        vectors = encoder.encode([content for _, content in good]).astype(np.float16)
    if not np.isfinite(vectors).all():
        raise ConfigError(
            f"the encoder {encoder.name!r} gives numbers that are not finite in float16", fix="Choose another encoder."
        )
    cache.add([key for key, _ in good], vectors)
    return len(good)


def _any(store: Store, kind: Kind) -> bool:
    return any(any(window) for window in _windows(store, kind))


def _windows(store: Store, kind: Kind) -> Iterator[list[Content | None]]:
    """The items' contents in order, some at a time; None (or "") where an item has none."""
    # Unbuffered: whole column chunks of pictures would be the whole catalogue's pictures in memory.
    with pq.ParquetFile(store.path / "items.parquet", pre_buffer=False, buffer_size=1 << 20) as file:
        for rows in file.iter_batches(_WINDOW[kind], columns=_COLUMNS[kind]):
            if kind == "text":
                columns = (rows.column(name).to_pylist() for name in _COLUMNS["text"])
                yield [item_text(*both) for both in zip(*columns, strict=True)]
            else:
                yield rows.column("image").to_pylist()


def _batches(new: dict[bytes, Content], size: int) -> Iterator[list[tuple[bytes, Content]]]:
    """Texts of like length together (padding costs what tokens cost), the longest first: if memory fails, at once."""
    order = list(new.items())
    if order and isinstance(order[0][1], str):
        order.sort(key=lambda pair: len(pair[1]), reverse=True)
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _put(temporary: Path, folder: Path) -> None:
    """Take the old vectors' place, unless those are the same; who has the old ones mapped keeps them.

    A folder that is not empty cannot be renamed over: a kill between the two renames leaves the Store without vectors,
    and the next encode makes them from the cache.
    """
    new, old = temporary / MANIFEST, folder / MANIFEST
    if old.is_file() and old.read_bytes() == new.read_bytes():
        return
    if folder.exists():
        folder.replace(temporary.with_name(f"{temporary.name}.old"))
    into_place(temporary, folder)
    shutil.rmtree(temporary.with_name(f"{temporary.name}.old"), ignore_errors=True)


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(
        *columns,
        TextColumn("items"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )

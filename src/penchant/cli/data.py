"""penchant prepare, penchant encode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, subcommand

from penchant.cli.arguments import parse
from penchant.data.prepare import prepare as prepare_store
from penchant.data.sources import movielens, table
from penchant.data.store import Store


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Turn raw logs and a catalogue into a Store: checked, sorted, hashed, with its splits.

    Rows that cannot be used are counted and shown with their line. A killed prepare leaves nothing behind.

    penchant prepare movielens --path ml-100k --view liked --out stores/ml-100k
    penchant prepare table --events clicks.csv --items catalogue.parquet --out stores/shop
    penchant prepare SOURCE --help
    """

    source: Annotated[movielens.MovieLens, subcommand("movielens")] | Annotated[table.Table, subcommand("table")]
    out: Path
    """Where the Store goes; it must not exist."""
    strict: bool = False
    """Refuse the whole data at the first row that cannot be used, instead of counting it."""


def prepare(args: Sequence[str]) -> None:
    """Read a source and write the Store."""
    chosen = parse("prepare", Prepare, args)
    match chosen.source:
        case movielens.MovieLens():
            raw = movielens.read(chosen.source)
        case table.Table():
            raw = table.read(chosen.source)
    prepare_store(raw, chosen.out, strict=chosen.strict)


@dataclass(frozen=True, kw_only=True)
class Encode:
    """Add frozen vectors of the items' texts and pictures to a Store.

    The packaged small models come from the package index: make models. Any Hugging Face name or folder works too.
    What was encoded once is never encoded again, and a killed encode goes on where it stopped.

    penchant encode stores/shop
    penchant encode stores/shop --text sentence-transformers/all-mpnet-base-v2 --image none
    """

    store: Positional[Path]
    """The Store."""
    text: str = "minilm"
    """Text encoder: minilm (packaged), a Hugging Face name or folder, or none."""
    image: str = "efficientnet-lite0"
    """Image encoder: efficientnet-lite0 (packaged), a Hugging Face name or folder, or none."""
    device: str = "auto"


def encode(args: Sequence[str]) -> None:
    """Encode what the Store's items say and show."""
    from penchant.encoders.encode import encode_store

    chosen = parse("encode", Encode, args)
    text, image = (None if name == "none" else name for name in (chosen.text, chosen.image))
    encode_store(Store(chosen.store), text=text, image=image, device=chosen.device)

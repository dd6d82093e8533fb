"""penchant prepare, penchant encode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from inspect import cleandoc
from pathlib import Path
from typing import Any, Generic, TypeVar

from rich.console import Console
from tyro.conf import Positional

from penchant.cli.arguments import Flat, parse, pick
from penchant.data.disk import disk_errors
from penchant.data.prepare import prepare as prepare_store
from penchant.data.sources.raw import MEMORY, Raw
from penchant.data.store import Store
from penchant.errors import StoreError

S = TypeVar("S")
SOURCES: dict[str, tuple[str, str]] = {
    "bazaar": (
        "penchant.bazaar.source:Bazaar",
        "a generated market whose truth is known: queries, pictures, exposures (synthetic)",
    ),
    "amazon": (
        "penchant.data.sources.amazon.reviews:Amazon",
        "Amazon reviews and products: the releases of 2014, 2018 and 2023",
    ),
    "kuairand": ("penchant.data.sources.kuairand:KuaiRand", "KuaiRand's logs of videos shown: Pure, 1K, 27K"),
    "movielens": (
        "penchant.data.sources.movielens:MovieLens",
        "MovieLens ratings: 100K, 1M, 10M, 20M, 25M, 32M, latest",
    ),
    "table": ("penchant.data.sources.table:Table", "your own logs: CSV, Parquet, Arrow or JSON lines"),
    "taobao": (
        "penchant.data.sources.taobao:Taobao",
        "Taobao's user behaviour (Tianchi 649): clicks, favourites, carts, purchases",
    ),
    "sequences": (
        "penchant.data.sources.sequences:Sequences",
        "a line of items a user, as papers publish them: Beauty, Yelp",
    ),
    "mind-news": (
        "penchant.data.sources.mind_news:MindNews",
        "Microsoft's news (MIND): what was shown, what was clicked",
    ),
}
"""Source -> (module and class of its options, which stand beside `read(options)`; what it reads)."""

PREPARE_HELP = """\
usage: penchant prepare SOURCE --out STORE [--FIELD VALUE ...]

Turn raw logs and a catalogue into a Store: checked, sorted, hashed, with its splits. Rows that cannot be used are
counted and shown with their line; a prepare that is killed leaves no half of a Store.

  penchant prepare movielens --path ml-100k --view liked --out stores/ml-100k
  penchant prepare table --events clicks.csv --items catalogue.parquet --out stores/shop
  penchant prepare bazaar --size tiny --out stores/bazaar-tiny
  penchant prepare table --help     every field of a source
"""


@dataclass(frozen=True, kw_only=True)
class Prepare(Generic[S]):
    """Turn raw logs and a catalogue into a Store: checked, sorted, hashed, with its splits."""

    source: Flat[S]
    out: Path
    """Where the Store goes; it must not exist."""
    strict: bool = False
    """Refuse the whole data at the first row that cannot be used, instead of counting it."""
    memory: str = MEMORY
    """What sorting and joining may hold in memory; beyond it they go to disk (TMPDIR). About 1 GB comes on top."""


def prepare(args: Sequence[str]) -> None:
    """Read a source and write the Store."""
    name = pick("prepare", "source", {key: says for key, (_, says) in SOURCES.items()}, PREPARE_HELP, args)
    if name is None:
        return
    module, _, kind = SOURCES[name][0].partition(":")
    source = import_module(module)
    options: Any = getattr(source, kind)
    says = f"{Prepare.__doc__}\n\n{cleandoc(options.__doc__)}"
    _prepare(source.read, parse(f"prepare {name}", Prepare[options], args[1:], says))


def _prepare(read: Callable[[S, str], Raw], chosen: Prepare[S]) -> None:
    console = Console(stderr=True, highlight=False)
    if chosen.out.exists():
        raise StoreError("already exists", where=chosen.out, fix="Choose another --out, or remove it first.")
    with console.status("reading"), disk_errors():
        raw = read(chosen.source, chosen.memory)
    prepare_store(raw, chosen.out, strict=chosen.strict, console=console)


@dataclass(frozen=True, kw_only=True)
class Encode:
    """Add frozen vectors of the items' texts and pictures to a Store.

    The packaged small models come from the package index: make models. Any Hugging Face name or folder works too.
    What was encoded once is never encoded again, and a killed encode goes on where it stopped.

    $ penchant encode stores/shop
    $ penchant encode stores/shop --text sentence-transformers/all-mpnet-base-v2 --image none
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
    for summary in encode_store(Store(chosen.store), text=text, image=image, device=chosen.device):
        Console(stderr=True, highlight=False).print(str(summary), markup=False)

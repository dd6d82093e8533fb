"""Broken catalogues: rows, columns and pictures."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from penchant.data.sources.images import MAX_BYTES
from tests.data.sources.broken.case import Case, Content, beside


def picture(kind: str = "PNG", size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (1, 2, 3)).save(buffer, format=kind)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has as many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


def items(name: str, text: str, **expected: Any) -> Case:
    return beside(name, "items", text, **expected)


def image(name: str, why: str, content: Content, *, path: str = "a.img") -> Case:
    """A catalogue whose second item's picture is broken; the first one's is kept."""
    return beside(
        name,
        "items",
        f"item_id,image\nb,good.png\na,{path}\n",
        files={"good.png": picture(), "a.img": content},
        refused={why: 1},
        sample=r"items\.csv line 3: image = '",
        holds={"items.image": [picture(), None]},
    )


def stored(name: str, values: list[Any], **expected: Any) -> Case:
    """Pictures in a Parquet file."""
    table = pa.table({"item_id": list("ab")[: len(values)], "image": values})
    return beside(name, "items", lambda p: pq.write_table(table, p), file="items.parquet", **expected)


ROWS = [
    items(
        "an item twice",
        "item_id,title\na,A\nb,B\na,C\n",
        refused={"item_id is listed twice": 1},
        sample=r"items\.csv line 4: item_id = 'a'",
        holds={"items.title": ["A", "B"]},
    ),
    items(
        "an item without id",
        "item_id,title\na,A\n,B\n",
        refused={"item_id is missing": 1},
        sample=r"items\.csv line 3: item_id = None",
    ),
    items(
        "events of unknown items",
        "item_id,title\nz,Z\n",
        holds={"items.item_id": ["z", "a", "b"], "items.title": ["Z", None, None]},
        notes=r"2 items of the logs are not in the catalogue \(the first: 'a'\)",
    ),
    items(
        "quotes and line ends in titles",
        'item_id,title\na,"5"" nail\nand\r\nmore, "";"" or so"\nb,it\'s\n',
        holds={"items.title": ['5" nail\nand\r\nmore, ";" or so', "it's"]},
    ),
    items(
        "a title that is never closed",
        'item_id,title\na,"5 inch nail\nb,"hammer"\n',
        refused={"broken line: a quote that is not closed": 1},
        sample=r"items\.csv line 2: 'a,",
        holds={"items.title": ["hammer", None]},
    ),
    items(
        "a comma too many in a title",
        "item_id,title\na,nail, long\nb,B\n",
        refused={"broken line: too many values": 1},
        sample=r"items\.csv line 2: 'a,nail, long'",
    ),
    items("an empty catalogue", "item_id,title\n", holds={"items.item_id": ["a", "b"]}),
    items("an empty file for a catalogue", "", error=r"items\.csv: the file is empty"),
    items(
        "a catalogue without ids",
        "title,price\nA,1\n",
        error=r"items\.csv: no column item_id; the columns are: title, price",
    ),
    items(
        "a column without a name",
        ",item_id,title\n0,a,A\n1,b,B\n",
        holds={"items.own_": [0, 1], "items.title": ["A", "B"]},
    ),
    items(
        "columns of our own names",
        "item_id,item,own_item\na,x,y\n",
        holds={"items.own_own_item": ["x", None], "items.own_item": ["y", None]},
    ),
    items(
        "columns of the workspace's names",
        "item_id,row,c0,why\na,1,2,3\n",
        holds={"items.row": [1, None], "items.c0": [2, None]},
    ),
    items(
        "two names that differ in capitals",
        "item_id,price,PRICE\na,1,2\n",
        holds={"items.price": [1, None], "items.PRICE": [2, None]},
    ),
    items("a quote in a column's name", 'item_id,"the ""best"""\na,1\n', holds={'items.the "best"': [1, None]}),
    items(
        "half a letter in a list of categories",
        'item_id,categories\na,"[""\\ud800"", ""B""]"\n',
        holds={"items.category_path": ["? > B", None]},
    ),
    items(
        "a list of categories nested too deep",
        f"item_id,categories\na,{'[' * 50_000}\n",
        holds={"items.category_path": ["[" * 50_000, None]},
    ),
    items(
        "a list of categories cut short",
        'item_id,categories\na,"[""A"", "\n',
        holds={"items.category_path": ['["A", ', None]},
    ),
    items(
        "a digit too many for a number in a list",
        f"item_id,categories\na,[{'9' * 5000}]\n",
        holds={"items.category_path": [f"[{'9' * 5000}]", None]},
    ),
    beside(
        "two names that differ in capitals, in Parquet",
        "items",
        lambda p: pq.write_table(pa.table({"item_id": ["a"], "price": ["1"], "PRICE": ["2"]}), p),
        file="items.parquet",
        holds={"items.price": ["1", None], "items.PRICE": ["2", None]},
    ),
    beside(
        "lists and numbers for titles",
        "items",
        lambda p: pq.write_table(
            pa.table({"item_id": [1, 2], "title": [[1, None], []], "price": [float("nan"), float("inf")]}), p
        ),
        file="items.parquet",
        holds={"items.title": ["1", None, None, None]},
    ),
    beside(
        "a duration for a column",
        "items",
        lambda p: pq.write_table(pa.table({"item_id": ["a"], "age": pa.array([5], pa.duration("s"))}), p),
        file="items.parquet",
        holds={"items.item_id": ["a", "b"]},
    ),
]

IMAGES = [
    image("a picture of no bytes", "image is empty", b""),
    image("text for a picture", "image cannot be decoded", b"<svg/>"),
    image("a cut picture", "image cannot be decoded", picture()[:40]),
    image("a cut JPEG", "image cannot be decoded", picture("JPEG", (64, 64))[:-150]),
    image("a picture with a wrong checksum", "image cannot be decoded", picture()[:36] + b"\0\0\0\0" + picture()[40:]),
    image("a picture of too many pixels", "image has over 64 million pixels", bomb(9000, 9000)),
    image("a picture of very many pixels", "image has over 64 million pixels", bomb(30_000, 30_000)),
    image("a picture of four billion rows", "image has over 64 million pixels", bomb(2**31 - 1, 2**31 - 1)),
    image("a picture of no pixels", "image cannot be decoded", bomb(0, 5)),
    image("a PostScript program for a picture", "image cannot be decoded", picture("EPS")),
    image("a picture file of too many bytes", "image is over 16 MB", lambda p: os.truncate(_touched(p), MAX_BYTES + 1)),
    image("a picture that is not there", "image file is missing", b"", path="no.png"),
    image("a folder for a picture", "image file is missing", b"", path="."),
    image("a picture above its folder", "image is outside the items' folder", b"", path="../../secret.png"),
    image("a picture by an absolute path", "image is outside the items' folder", b"", path="/etc/passwd"),
    image("a link out of the folder", "image is outside the items' folder", lambda p: p.symlink_to("/etc/passwd")),
    image("a link to itself", "image file cannot be read", lambda p: p.symlink_to("a.img")),
    image("a pipe for a picture", "image file is missing", os.mkfifo),
    image("a web address for a picture", "image is a web address, not a file", b"", path="https://x.org/a.png"),
    image("a zero byte in a picture's path", "image file cannot be read", b"", path="\0.png"),
    image("a path longer than any", "image file cannot be read", b"", path="x" * 5000),
    stored(
        "zero bytes and text in a column of pictures",
        [b"", b"no picture"],
        refused={"image is empty": 1, "image cannot be decoded": 1},
        sample=r"items\.parquet row 2: image = '10 bytes'",
    ),
    stored(
        "numbers for pictures",
        [5, None],
        refused={"image is neither a path nor bytes": 1},
        sample=r"items\.parquet row 1: image = '5'",
    ),
    stored("lists of pictures", [["a.png", "b.png"], []], refused={"image is neither a path nor bytes": 2}),
    stored(
        "pictures as the datasets library writes them, empty",
        [{"bytes": None, "path": None}, {"bytes": picture(), "path": "x"}],
        refused={"image is neither a path nor bytes": 1},
        holds={"items.image": [None, picture()]},
    ),
]


def _touched(path: Path) -> Path:
    path.touch()
    return path


CASES = [*ROWS, *IMAGES]

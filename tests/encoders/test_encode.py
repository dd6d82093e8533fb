from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from penchant.data import schema
from penchant.data.output import alone
from penchant.data.store import Store
from penchant.data.writer import write_store
from penchant.encoders.encode import EncodeSummary, encode_items, encode_store
from penchant.encoders.text import item_text, load_text_encoder
from penchant.errors import ConfigError, ModelUnavailableError, StoreError
from tests.factories import make_store


class Counting:
    """An encoder whose vectors are known, and which keeps what it was given."""

    name = "counting"
    dim = 4

    def __init__(self, kind: str = "text", fingerprint: str = "counting") -> None:
        self.kind = kind
        self.fingerprint = fingerprint
        self.batches: list[list[Any]] = []
        self.stop_after: int | None = None

    def encode(self, contents: Sequence[Any], /) -> np.ndarray:
        if self.stop_after is not None and len(self.batches) == self.stop_after:
            os.kill(os.getpid(), signal.SIGKILL)
        self.batches.append(list(contents))
        return np.stack([self.vector(content) for content in contents])

    @staticmethod
    def vector(content: Any) -> np.ndarray:
        data = content.encode() if isinstance(content, str) else content.tobytes()
        return np.frombuffer(hashlib.sha256(data).digest()[:4], np.uint8).astype(np.float32) / 9

    @property
    def seen(self) -> int:
        return sum(len(batch) for batch in self.batches)


def catalogue(out: Path, titles: list[str | None], images: list[bytes | None] | None = None) -> Store:
    n = len(titles)
    items = pa.table(
        {
            "item": pa.array(range(1, n + 1), pa.int32()),
            "item_id": [f"i{i + 1}" for i in range(n)],
            "title": pa.array(titles, pa.string()),
            "category": pa.array([1] * n, pa.int32()),
            "image": pa.array(images or [None] * n, pa.binary()),
        }
    )
    users = pa.table({"user": pa.array([1], pa.int32()), "user_id": ["u1"]})
    return write_store(out, name="made-up", items=items, users=users, events=schema.EVENTS.empty_table())


def texts_of(store: Store) -> list[str]:
    items = store.table("items", ["title", "text"])
    return [item_text(*both) for both in zip(items["title"].to_pylist(), items["text"].to_pylist(), strict=True)]


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 6), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def market(tmp_path: Path) -> Store:
    return make_store(tmp_path / "store")


def test_each_item_gets_the_vector_of_its_own_text(market: Store) -> None:
    encoder = Counting()
    summary = encode_items(market, encoder, batch_size=7)
    vectors = market.vectors("text")
    expected = np.stack([np.zeros(4), *(Counting.vector(text) for text in texts_of(market))]).astype(np.float16)
    assert vectors.values.dtype == np.float16
    assert np.array_equal(vectors.values, expected)
    assert vectors.present.tolist() == [False] + [True] * 80
    assert vectors.fingerprint == summary.fingerprint
    assert (summary.present, summary.missing, summary.broken, summary.encoded) == (80, 0, 0, 80)
    manifest = json.loads((market.path / "vectors" / "text" / "manifest.json").read_text())
    wanted = {"encoder": "counting", "kind": "text", "dim": 4, "missing": 0, "fingerprint": summary.fingerprint}
    assert wanted.items() <= manifest.items()
    assert sorted(p.name for p in (market.path / "vectors").iterdir()) == ["text"]


def test_batches_are_bounded_and_of_like_length(market: Store) -> None:
    encoder = Counting()
    encode_items(market, encoder, batch_size=7)
    assert max(len(batch) for batch in encoder.batches) == 7
    lengths = [len(text) for batch in encoder.batches for text in batch]
    assert lengths == sorted(lengths, reverse=True)


def test_the_batch_size_does_not_change_the_vectors(market: Store, text_folder: Path) -> None:
    def values(batch_size: int) -> np.ndarray:
        encoder = load_text_encoder(str(text_folder), device="cpu")
        encoder.fingerprint += str(batch_size)  # a cache of its own
        encode_items(market, encoder, batch_size=batch_size)
        return np.array(market.vectors("text").values, np.float32)

    one = values(1)
    assert np.abs(one[1:]).max() > 0.1
    np.testing.assert_allclose(values(32), one, atol=2e-3)  # half precision: 11 bits


def test_what_was_encoded_is_not_encoded_again(market: Store, tmp_path: Path) -> None:
    first = encode_items(market, Counting(), batch_size=8)
    before = np.array(market.vectors("text").values)
    written = (market.path / "vectors" / "text" / "values.npy").stat().st_mtime_ns
    again = Counting()
    second = encode_items(market, again, batch_size=8)
    assert (again.seen, second.encoded) == (0, 0)
    assert second.fingerprint == first.fingerprint
    assert (market.path / "vectors" / "text" / "values.npy").stat().st_mtime_ns == written
    # Another Store with some of the same texts, in another order.
    titles = texts_of(market)
    other = catalogue(tmp_path / "other", ["a new one", *titles[:20][::-1]])
    third = Counting()
    assert encode_items(other, third, batch_size=8).encoded == third.seen == 1
    assert np.array_equal(other.vectors("text").values[2:], before[1:21][::-1])
    # Another encoder has to see them all.
    assert encode_items(other, Counting(fingerprint="another"), batch_size=8).encoded == 21


def test_equal_contents_are_encoded_once(tmp_path: Path) -> None:
    encoder = Counting()
    store = catalogue(tmp_path / "store", ["same", "other", "same", None, " "])
    summary = encode_items(store, encoder, batch_size=8)
    assert (encoder.seen, summary.encoded, summary.present, summary.missing) == (2, 2, 3, 2)
    values = store.vectors("text").values
    assert np.array_equal(values[1], values[3])
    assert not values[4:].any()
    assert store.vectors("text").present.tolist() == [False, True, True, True, False, False]


KILLED = """
import sys
from penchant.data.store import Store
from penchant.encoders.encode import encode_items
from tests.encoders.test_encode import Counting
encoder = Counting()
encoder.stop_after = 3
encode_items(Store(sys.argv[1]), encoder, batch_size=10, flush_s=0)
"""


def test_a_killed_encode_goes_on_from_its_finished_batches(market: Store) -> None:
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), str(root / "src")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", KILLED, str(market.path)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (market.path / "vectors" / "text").exists()
    after = Counting()
    assert encode_items(market, after, batch_size=10).encoded == after.seen == 50
    killed_and_resumed = np.array(market.vectors("text").values)
    encode_items(market, Counting(fingerprint="never killed"), batch_size=10)
    assert np.array_equal(market.vectors("text").values, killed_and_resumed)
    assert sorted(p.name for p in (market.path / "vectors").iterdir()) == ["text"]


def test_a_second_encode_of_the_same_kind_is_refused(market: Store) -> None:
    with (
        alone(market.path / "vectors" / "text", StoreError),
        pytest.raises(StoreError, match=r"vectors/text: another process is at work on it\. Wait"),
    ):
        encode_items(market, Counting(), batch_size=8)


def test_missing_and_broken_pictures_are_counted_not_fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penchant.data.sources.images.MAX_PIXELS", 50)
    large = io.BytesIO()
    Image.new("RGB", (10, 10)).save(large, "PNG")
    images = [png("red"), None, b"not a picture", png("blue"), large.getvalue(), png("red")[:50], b"", png("red")]
    store = catalogue(tmp_path / "store", [None] * 8, images)
    encoder = Counting("image")
    summary = encode_items(store, encoder, batch_size=2)
    assert (summary.items, summary.present, summary.missing, summary.broken) == (8, 3, 2, 3)
    assert summary.broken_items == ("i3", "i5", "i6")
    assert "3 could not be read (first: i3, i5, i6)" in str(summary)
    assert (summary.encoded, encoder.seen) == (2, 2)
    vectors = store.vectors("image")
    assert vectors.present.tolist() == [False, True, False, False, True, False, False, False, True]
    assert not vectors.values[~vectors.present].any()
    assert np.array_equal(vectors.values[1], Counting.vector(Image.new("RGB", (6, 6), "red")).astype(np.float16))


def test_a_failing_encoder_leaves_the_old_vectors(market: Store) -> None:
    encode_items(market, Counting(), batch_size=8)
    before = market.vectors("text").fingerprint

    class Overflowing(Counting):
        def encode(self, contents: Sequence[Any], /) -> np.ndarray:
            return super().encode(contents) * (np.float32(1e6) if len(self.batches) > 1 else 1)

    broken = Overflowing(fingerprint="overflowing")
    with pytest.raises(ConfigError, match="'counting' gives numbers that are not finite in float16"):
        encode_items(market, broken, batch_size=8)
    assert market.vectors("text").fingerprint == before
    assert sorted(p.name for p in (market.path / "vectors").iterdir()) == ["text"]
    # What was finite is kept, the rest is not.
    assert encode_items(market, Counting(fingerprint="overflowing"), batch_size=8).encoded == 72


def test_another_encoder_replaces_the_vectors(market: Store) -> None:
    old = encode_items(market, Counting(), batch_size=8)
    mapped = market.vectors("text").values
    before = np.array(mapped)
    new = encode_items(market, Counting(fingerprint="another"), batch_size=8)
    assert new.fingerprint != old.fingerprint
    assert market.vectors("text").fingerprint == new.fingerprint
    assert np.array_equal(mapped, before)


def test_the_fingerprint_is_of_encoder_and_contents(tmp_path: Path) -> None:
    def fingerprint(name: str, titles: list[str | None], encoder: str = "a") -> str:
        return encode_items(catalogue(tmp_path / name, titles), Counting(fingerprint=encoder), batch_size=4).fingerprint

    base = fingerprint("1", ["x", "y", None])
    assert fingerprint("2", ["x", "y", None]) == base
    others = [fingerprint("3", ["y", "x", None]), fingerprint("4", ["x", None, "y"]), fingerprint("5", ["x", "y"])]
    others.append(fingerprint("6", ["x", "y", None], encoder="b"))
    assert len({base, *others}) == 5


def test_a_catalogue_larger_than_a_window_is_encoded_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penchant.encoders.encode._WINDOW", {"text": 7, "image": 3})
    titles = [f"title {i % 11} {'x' * (i % 5)}." for i in range(40)]
    store = catalogue(tmp_path / "store", list(titles))
    encoder = Counting()
    encode_items(store, encoder, batch_size=4)
    expected = np.stack([Counting.vector(title) for title in titles]).astype(np.float16)
    assert np.array_equal(store.vectors("text").values[1:], expected)
    assert encoder.seen == len(set(titles))


def test_texts_and_pictures_by_models_of_a_folder(market: Store, text_folder: Path, image_folder: Path) -> None:
    def run() -> list[EncodeSummary]:
        return encode_store(market, text=str(text_folder), image=str(image_folder), device="cpu")

    text, image = run()
    assert (text.kind, text.present, text.encoded, text.dim) == ("text", 80, 80, 16)
    assert (image.kind, image.present, image.missing, image.encoded) == ("image", 68, 12, 68)
    assert market.vectors("text").values.shape == market.vectors("image").values.shape == (81, 16)
    assert [summary.encoded for summary in run()] == [0, 0]
    again = [dataclasses.replace(s, encoded=0, wall_seconds=0.0, cpu_seconds=0.0) for s in (*run(), text, image)]
    assert again[:2] == again[2:]


def test_a_kind_nobody_has_or_wants_is_passed_over(tmp_path: Path, text_folder: Path) -> None:
    store = catalogue(tmp_path / "store", ["red thing", "blue thing"])
    text, image = encode_store(store, text=str(text_folder), image="no-such-model", device="cpu")
    assert (text.present, image.present, image.missing, image.fingerprint) == (2, 0, 2, "")
    assert not (store.path / "vectors" / "image").exists()
    assert encode_store(store, text=None, image=None) == []


def test_a_missing_encoder_is_known_before_any_work(market: Store, text_folder: Path) -> None:
    with pytest.raises(ModelUnavailableError, match="no-such-model"):
        encode_store(market, text=str(text_folder), image="no-such-model", device="cpu")
    assert not (market.path / "vectors").exists()
    with pytest.raises(ConfigError, match="batch_size=0"):
        encode_store(market, batch_size=0)

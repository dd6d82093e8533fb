from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penchant.encoders.cache import VectorCache, content_key


def vector(key: bytes, dim: int = 3) -> np.ndarray:
    return np.frombuffer(key, np.uint8)[:dim].astype(np.float16) / 7


@given(
    batches=st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=6, unique=True), max_size=8),
    reopen=st.lists(st.booleans(), min_size=8, max_size=8),
    flush_s=st.sampled_from([0.0, 1e9]),
)
@settings(deadline=None, max_examples=15)
def test_every_vector_added_is_read_back(batches: list[list[int]], reopen: list[bool], flush_s: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = VectorCache(Path(folder), 3, flush_s=flush_s)
        held: set[bytes] = set()
        for batch, again in zip(batches, reopen, strict=False):
            keys = [content_key(str(i)) for i in batch]
            cache.add(keys, np.stack([vector(k) for k in keys]))
            held.update(keys)
            if again:
                cache.flush()
                cache = VectorCache(Path(folder), 3, flush_s=flush_s)
        order = sorted(held, reverse=True)
        assert all(key in cache for key in held)
        expected = np.stack([vector(k) for k in order]) if order else np.empty((0, 3), np.float16)
        assert np.array_equal(cache.read(order), expected)
        assert content_key("absent") not in cache


def test_what_was_not_flushed_is_lost_and_nothing_else(tmp_path: Path) -> None:
    a, b = content_key("a"), content_key(b"b")
    cache = VectorCache(tmp_path, 3, flush_s=1e9)
    cache.add([a], vector(a)[None])
    cache.flush()
    cache.add([b], vector(b)[None])
    after_kill = VectorCache(tmp_path, 3)
    assert a in after_kill
    assert b not in after_kill
    with pytest.raises(KeyError):
        after_kill.read([b])


def test_half_written_and_damaged_shards_are_forgotten(tmp_path: Path) -> None:
    a = content_key("a")
    cache = VectorCache(tmp_path, 3, flush_s=0)
    cache.add([a], vector(a)[None])
    (shard,) = tmp_path.glob("*.safetensors")
    whole = shard.read_bytes()
    shard.with_suffix(".tmp-1").write_bytes(whole[:40])
    (tmp_path / "cut.safetensors").write_bytes(whole[:-2])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    again = VectorCache(tmp_path, 3)
    assert a in again
    assert np.array_equal(again.read([a])[0], vector(a))
    assert [p.name for p in tmp_path.glob("*.safetensors")] == [shard.name]


def test_vectors_of_another_width_are_not_taken(tmp_path: Path) -> None:
    a = content_key("a")
    VectorCache(tmp_path, 3, flush_s=0).add([a], vector(a)[None])
    assert a not in VectorCache(tmp_path, 4)


def test_texts_and_bytes_are_filed_by_content() -> None:
    assert content_key("é") == content_key("é".encode())
    assert content_key("a") != content_key("b")

"""Vectors kept by the hash of what they encode, so that the same text or picture is never encoded twice.

    $PENCHANT_CACHE (or ~/.cache/penchant)/
      vectors/<encoder fingerprint>/<hash of its keys>.safetensors
                             keys   uint8 [N, 16]    first half of the content's sha256
                             values float16 [N, D]
      models/                models converted once (backbone.py)
      karma/                 vectors of the frozen layers in the same form; finished stages of KARMA (recipes/karma)
      ulim/                  finished stages of ULIM (recipes/ulim)
      movielens/             releases downloaded (data/sources/grouplens.py)

Shards are only ever added, each under its final name once it is whole: a killed process loses what it had not yet
written (a few seconds of work), and several processes may share a cache. A shard it was just writing stays under its
temporary name, which nobody reads: whose it is cannot be known among several processes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from penchant.data.output import whole

KEY_BYTES = 16


def content_key(content: str | bytes) -> bytes:
    """What a text (as UTF-8) or an encoded picture is filed under: 16 bytes of its sha256."""
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return hashlib.sha256(data).digest()[:KEY_BYTES]


class VectorCache:
    """The vectors one encoder has made, on disk. Made for one process at a time; others may use the same folder.

    Args:
        folder: of this encoder alone (its fingerprint is in the name).
        dim: width D of its vectors.
        flush_s: seconds of work that may be lost to a kill; 0 = none, a shard for every `add`.
    """

    def __init__(self, folder: Path, dim: int, *, flush_s: float = 5.0) -> None:
        self.folder = folder
        self.dim = dim
        self._flush_s = flush_s
        self._flushed_at = time.monotonic()
        self._pending: dict[bytes, np.ndarray] = {}
        self._where: dict[bytes, tuple[Path, int]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for shard in sorted(folder.glob("*.safetensors")):
            self._index(shard)

    def __contains__(self, key: bytes) -> bool:
        return key in self._where or key in self._pending

    def add(self, keys: Sequence[bytes], vectors: Float[np.ndarray, "B D"]) -> None:
        """Keep the vectors of B contents; on disk within `flush_s` of work, or at `flush`."""
        self._pending.update(zip(keys, vectors.astype(np.float16), strict=True))
        if time.monotonic() - self._flushed_at >= self._flush_s:
            self.flush()

    def flush(self) -> None:
        """Write what is not yet on disk as one shard."""
        self._flushed_at = time.monotonic()
        if not self._pending:
            return
        keys = b"".join(self._pending)
        shard = self.folder / f"{hashlib.sha256(keys).hexdigest()[:32]}.safetensors"
        tensors = {
            "keys": np.frombuffer(keys, np.uint8).reshape(-1, KEY_BYTES),
            "values": np.stack(list(self._pending.values())),
        }
        with whole(shard) as temporary:
            save_file(tensors, temporary)
        self._where.update({key: (shard, row) for row, key in enumerate(self._pending)})
        self._pending.clear()

    def read(self, keys: Sequence[bytes]) -> Float[np.ndarray, "B D"]:
        """float16 vectors of contents it holds.

        Raises:
            KeyError: it does not hold one of them.
        """
        out = np.empty((len(keys), self.dim), np.float16)
        of_shard: dict[Path, list[tuple[int, int]]] = {}
        for i, key in enumerate(keys):
            if key in self._pending:
                out[i] = self._pending[key]
            else:
                shard, row = self._where[key]
                of_shard.setdefault(shard, []).append((i, row))
        for shard, places in of_shard.items():
            to, rows = np.array(places).T
            with safe_open(shard, "np") as file:
                out[to] = file.get_tensor("values")[rows]
        return out

    def _index(self, shard: Path) -> None:
        try:
            with safe_open(shard, "np") as file:
                keys = file.get_tensor("keys")
                shape = file.get_slice("values").get_shape()
        except FileNotFoundError:  # another process has just found it damaged
            return
        except SafetensorError:
            keys, shape = np.empty((0, KEY_BYTES), np.uint8), []
        if shape != [len(keys), self.dim] or keys.shape[1:] != (KEY_BYTES,):
            # Cut short by a full disk or a crash of the machine. A cache may forget: its contents are encoded again.
            shard.unlink(missing_ok=True)
            return
        self._where.update({key.tobytes(): (shard, row) for row, key in enumerate(keys)})

"""What the scripts that search among vectors share: the market they are given, the meter, the lists they leave behind.

Runs in every environment of the bench, so it takes the standard library and NumPy alone. A script is called as
`with_LIBRARY.py JOB.json`; the job's folder gets two files a row

    ROW.npz     items [R, C, K], short [R, L]: the lists, 0 where there is no item; milliseconds [R] of each request
    ROW.json    requests a second, CPU milliseconds of each, seconds to build, peak memory
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

WARM_UP = 5
SHOWN_EVERY = 50
AT_LEAST = 20
"""Requests that are answered even where time is up."""

Lists = tuple[Sequence[int] | np.ndarray, Sequence[Sequence[int] | np.ndarray]]
"""The whole corpus's list and each category's, best first."""


@dataclass
class Searches:
    """The job.

    Attributes:
        rows: name -> settings of each row to measure.
        k_short, k_each: items wanted from the whole corpus and from each category.
        threads: that a request may use; after that, how many requests are answered at once, on a thread each.
        seconds: after which a row is cut, twice: one by one, and many at once.
        vectors, categories: [I, D] and [I]; row 0 is padding.
        short, interests, names: the R requests: [R, D], [R, C, D], and the categories asked for [R, C].
        out: folder of what the script leaves behind.
    """

    rows: dict[str, dict[str, Any]]
    k_short: int
    k_each: int
    threads: int
    seconds: float
    vectors: np.ndarray
    categories: np.ndarray
    short: np.ndarray
    interests: np.ndarray
    names: np.ndarray
    out: Path

    @classmethod
    def given(cls) -> Searches:
        """The job named on the command line."""
        values = json.loads(Path(sys.argv[1]).read_text())
        market = Path(values.pop("market"))
        names = ("vectors", "categories", "short", "interests", "names")
        return cls(**values, **{n: np.load(market / f"{n}.npy") for n in names}, out=Path(sys.argv[1]).parent)

    def measure(
        self, row: str, answer: Callable[[int], Lists], use_threads: Callable[[int], None], build_s: float
    ) -> None:
        """Answer the requests one by one, then `threads` of them at once.

        Args:
            answer: to a request by its number.
            use_threads: how many threads one answer may use from now on.
        """
        use_threads(self.threads)
        for i in range(WARM_UP):
            answer(i % len(self.short))
        lists: list[Lists] = []
        taken: list[float] = []
        began = time.perf_counter()
        while len(lists) < len(self.short) and (len(lists) < AT_LEAST or time.perf_counter() - began < self.seconds):
            start = time.perf_counter()
            lists.append(answer(len(lists)))
            taken.append(1000 * (time.perf_counter() - start))
            if len(lists) % SHOWN_EVERY == 0:
                print(f"   {row}: {len(lists)} of {len(self.short)}, {np.median(taken):.2f} ms", flush=True)
        use_threads(1)
        began, cpu = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(self.threads) as clients:
            list(clients.map(answer, range(len(lists))))
        per_second = len(lists) / (time.perf_counter() - began)
        cpu_ms = 1000 * (time.process_time() - cpu) / len(lists)
        items = np.stack([np.stack([_padded(of, self.k_each) for of in each]) for _, each in lists])
        short = np.stack([_padded(of, self.k_short) for of, _ in lists])
        np.savez(self.out / f"{row}.npz", items=items, short=short, milliseconds=np.array(taken))
        figures = {"per_second": per_second, "cpu_ms": cpu_ms, "build_s": build_s, "peak_mb": _peak_mb()}
        (self.out / f"{row}.json").write_text(json.dumps(figures))
        print(f"   {row}: {np.median(taken):.2f} ms, {per_second:.1f} requests/s", flush=True)


def _padded(items: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
    found = np.zeros(length, dtype=np.int64)
    found[: len(items)] = items
    return found


def _peak_mb() -> float:
    """The most memory this process has held, on Linux."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")

"""The most memory this process has held."""

from __future__ import annotations

import re
from pathlib import Path


def peak_gb() -> float:
    """In gigabytes of 10^9 bytes; Linux. (`ru_maxrss` begins with what the parent held at the fork.)"""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, "this kernel does not tell VmHWM"
    return int(found[1]) * 1024 / 1e9

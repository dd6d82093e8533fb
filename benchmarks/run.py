"""Every benchmark, one after the other; arguments go to each. `make bench` calls this."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = ("sasrec.py", "bazaar.py")


def main() -> None:
    for name in BENCHMARKS:
        print(f"== {name}", flush=True)
        subprocess.run([sys.executable, str(Path(__file__).parent / name), *sys.argv[1:]], check=True)


if __name__ == "__main__":
    main()

"""An environment for each peer, made when it is first needed: the pins of one library never meet another's."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

TORCH = "torch==2.13.0"
REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "rectools": ("rectools[torch]==0.19.0", TORCH, "pyarrow==20.0.0"),
    # RecBole 1.2.1 uses names that NumPy 2 and later pandas, SciPy and scikit-learn no longer have.
    "recbole": (
        *("recbole==1.2.1", TORCH, "pyarrow==20.0.0", "setuptools<81"),
        *("numpy<2", "pandas<2.3", "scipy<1.14", "scikit-learn<1.6"),
    ),
    "implicit": ("implicit==0.7.3", "pyarrow"),
    "fuxictr": ("fuxictr==2.3.10", TORCH, "pyarrow==20.0.0"),
    "faiss": ("faiss-cpu==1.15.1",),
    "lancedb": ("lancedb==0.40.0",),
}
"""What each peer's environment holds. The pins are versions that ran; pyarrow reads and writes what is exchanged: 20 is
one that runs beside NumPy 1."""


def python_of(library: str, folder: Path) -> Path:
    """The Python that runs a library's script; its environment is made below `folder` if it is not there."""
    if library == "penchant":
        return Path(sys.executable)
    here = folder / library
    python, made = here / "bin" / "python", here / "made"
    if not made.is_file():
        print(f"making {here}: {' '.join(REQUIREMENTS[library])}", flush=True)
        venv.create(here, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *REQUIREMENTS[library]], check=True)
        made.touch()
    return python


def run_script(script: str, python: Path, out: Path, threads: int = 1) -> None:
    """Run a script of `peers/` on the job in `out`.

    Args:
        threads: more than one would make CPU seconds depend on how many cores there are.

    Raises:
        subprocess.CalledProcessError: it failed; its own message is on the terminal.
    """
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(threads))}
    path = Path(__file__).parent / "peers" / f"{script}.py"
    subprocess.run(["nice", "-n", "10", python, path, out / "job.json"], check=True, env=environment, cwd=out)

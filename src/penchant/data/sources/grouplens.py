"""MovieLens by name: from GroupLens over TLS with its checksum, or 100K from a wheel on the package index."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from rich.console import Console

from penchant.data.output import whole
from penchant.data.store import cache_root, sha256
from penchant.errors import DataError

BASE = "https://files.grouplens.org/datasets/movielens/"

NAMES = {
    name: f"{name}.zip"
    for name in ("ml-100k", "ml-1m", "ml-10m", "ml-20m", "ml-25m", "ml-32m", "ml-latest", "ml-latest-small")
}

WHEEL = "recbole==1.2.1"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
"""Of recbole-1.2.1-py3-none-any.whl, as the package index states it."""

WHEEL_FILES = ("ml-100k.inter", "ml-100k.item", "ml-100k.user")


def download(name: str, notes: list[str]) -> Path:
    """The archive (or, from the wheel, the folder) of a release, from the cache where it is there.

    The checksum is the md5 that GroupLens publishes beside each archive, fetched over TLS: it guards against a broken
    transfer; against a forger it is as good as the TLS connection.

    Args:
        notes: where the data came from is appended.

    Raises:
        DataError: it cannot be had, or its checksum is wrong.
    """
    cache = cache_root() / "movielens"
    cache.mkdir(parents=True, exist_ok=True)
    archive, folder = cache / NAMES[name], cache / f"{name}-from-wheel"
    if archive.is_file():
        return archive
    try:
        _fetch_archive(NAMES[name], archive)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        if name != "ml-100k":
            fix = f"Download {BASE}{NAMES[name]} elsewhere and give its path, or use ml-100k, which PyPI has."
            raise DataError(f"GroupLens cannot be reached ({error})", where=name, fix=fix) from error
        said = f"GroupLens cannot be reached; ml-100k is taken from the data files of the {WHEEL} wheel on PyPI."
        Console(stderr=True).print(said)
        notes.append(said)
        if not all((folder / f).is_file() for f in WHEEL_FILES):
            _from_wheel(folder)
        return folder
    return archive


def _fetch_archive(file: str, target: Path) -> None:
    with urllib.request.urlopen(f"{BASE}{file}.md5", timeout=20) as answer:
        stated = re.search(r"\b[0-9a-f]{32}\b", answer.read(4096).decode("ascii", "replace"))
    if stated is None:
        raise DataError("GroupLens' checksum file holds no md5", where=f"{BASE}{file}.md5", fix="Try again later.")
    with whole(target) as temporary:
        digest = hashlib.md5(usedforsecurity=False)
        with urllib.request.urlopen(f"{BASE}{file}", timeout=60) as answer, temporary.open("wb") as out:
            while block := answer.read(1 << 20):
                digest.update(block)
                out.write(block)
        if digest.hexdigest() != stated[0]:
            raise DataError(
                f"md5 is {digest.hexdigest()}, GroupLens states {stated[0]}", where=f"{BASE}{file}", fix="Try again."
            )


def _from_wheel(folder: Path) -> None:
    """Take the three data files out of the wheel. It is a zip to us: never installed, never imported."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run([*command, "--dest", temporary, WHEEL], capture_output=True, text=True, check=False)
        wheels = list(Path(temporary).glob("recbole-*.whl"))
        if done.returncode or not wheels:
            why = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise DataError(
                f"{WHEEL} cannot be downloaded ({why})", where="ml-100k", fix="Give the path of ml-100k.zip."
            )
        if sha256(wheels[0]) != WHEEL_SHA256:
            fix = f"Expected sha256 {WHEEL_SHA256}; do not use it."
            raise DataError(f"sha256 is {sha256(wheels[0])}", where=wheels[0].name, fix=fix)
        made = Path(temporary) / "files"
        made.mkdir()
        with zipfile.ZipFile(wheels[0]) as wheel:
            for file in WHEEL_FILES:
                (made / file).write_bytes(wheel.read(f"recbole/dataset_example/ml-100k/{file}"))
        shutil.rmtree(folder, ignore_errors=True)
        made.replace(folder)

"""Downloads by name, without a network: what GroupLens and the package index answer is made up here."""

from __future__ import annotations

import hashlib
import io
import subprocess
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import pytest

from penchant.data.sources import grouplens
from penchant.errors import DataError

ARCHIVE = b"an archive"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PENCHANT_CACHE", str(tmp_path))
    return tmp_path / "movielens"


def answer(monkeypatch: pytest.MonkeyPatch, md5: str) -> list[str]:
    asked: list[str] = []

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(f"MD5 (ml-1m.zip) = {md5}\n".encode() if url.endswith(".md5") else ARCHIVE)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked


def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def urlopen(url: str, timeout: float) -> io.BytesIO:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


def wheel(monkeypatch: pytest.MonkeyPatch, sha256: str | None = None) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in grouplens.WHEEL_FILES:
            archive.writestr(f"recbole/dataset_example/ml-100k/{name}", name)

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess:
        assert command[1:4] == ["-m", "pip", "download"]
        target = Path(command[command.index("--dest") + 1]) / "recbole-1.2.1-py3-none-any.whl"
        target.write_bytes(buffer.getvalue())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(grouplens, "WHEEL_SHA256", sha256 or hashlib.sha256(buffer.getvalue()).hexdigest())


def test_an_archive_is_fetched_once_over_tls(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    asked = answer(monkeypatch, hashlib.md5(ARCHIVE).hexdigest())
    assert grouplens.download("ml-1m", []).read_bytes() == ARCHIVE
    assert grouplens.download("ml-1m", []) == cache / "ml-1m.zip"
    assert [a.split("://")[0] for a in asked] == ["https", "https"]


def test_a_wrong_checksum_leaves_nothing_in_the_cache(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    answer(monkeypatch, "0" * 32)
    with pytest.raises(DataError, match="GroupLens states 0000"):
        grouplens.download("ml-1m", [])
    assert list(cache.iterdir()) == []


def test_100k_comes_from_the_wheel_where_grouplens_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    unreachable(monkeypatch)
    wheel(monkeypatch)
    notes: list[str] = []
    folder = grouplens.download("ml-100k", notes)
    assert sorted(p.name for p in folder.iterdir()) == sorted(grouplens.WHEEL_FILES)
    assert "recbole==1.2.1 wheel on PyPI" in notes[0]


def test_another_wheel_is_not_used(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    unreachable(monkeypatch)
    wheel(monkeypatch, sha256="0" * 64)
    with pytest.raises(DataError, match="do not use it"):
        grouplens.download("ml-100k", [])
    assert list(cache.iterdir()) == []


def test_other_names_say_what_to_do_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    unreachable(monkeypatch)
    with pytest.raises(DataError, match=r"ml-25m: GroupLens cannot be reached .* or use ml-100k, which PyPI has"):
        grouplens.download("ml-25m", [])

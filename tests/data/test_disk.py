"""A disk that is full or closed to us ends in one line that names the place, and leaves nothing behind."""

from __future__ import annotations

import errno
import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import pyarrow.parquet as pq
import pytest

from penchant.cli.main import main
from penchant.data import writer
from penchant.data.sources import formats
from penchant.data.sources.raw import Workspace

LOG = "user_id,item_id,timestamp\n" + "".join(f"u{n % 9},i{n % 7},{1_704_067_200 + n}\n" for n in range(3000))


def full(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def full_without_a_number(*_: object, **__: object) -> NoReturn:
    """As NumPy says it."""
    raise OSError("3000 requested and 17 written")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(LOG.encode()))
    return tmp_path / "log.csv.gz"


@pytest.mark.parametrize(
    ("owner", "name", "how", "place"),
    [
        (pq, "write_table", full, r"\S*/out/store"),
        (writer, "sha256", full_without_a_number, r"\S*/out/store"),
        (writer, "define_splits", full, r"\S*/out/store"),
        (formats.shutil, "copyfileobj", full, re.escape(tempfile.gettempdir())),
        (Workspace, "__init__", full, re.escape(tempfile.gettempdir())),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_nothing(
    owner: object,
    name: str,
    how: object,
    place: str,
    log: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(owner, name, how)
    out = log.parent / "out"
    assert main(["prepare", "table", "--events", str(log), "--out", str(out / "store")]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(rf"error: {place}: (No space left|3000 requested).*\. [A-Z].*\n", said), said
    assert not out.exists() or list(out.iterdir()) == []


def test_too_little_memory_is_one_line_that_names_the_option(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["prepare", "table", "--events", str(log), "--out", str(out / "store"), "--memory", "1MB"]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: .*Out of Memory.*\. Give it more with --memory\.\n", said), said
    assert not out.exists() or list(out.iterdir()) == []


RUN = """
import contextlib, io, os, resource, sys
from penchant.cli.main import main

def run(*args):
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = main(["prepare", "table", *args])
    print(status, said.getvalue().strip().replace(chr(10), " // "))

run("--events", "log.csv", "--items", "items.csv", "--out", "out/good")  # so that all there is to import is imported
"""

LIMITED = """
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
run("--events", "log.csv", "--out", "out/a")
run("--events", "log.csv.gz", "--out", "out/b")
"""

NOBODY = """
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
run("--events", "secret.csv", "--out", "out/a")
run("--events", "closed/log.csv", "--out", "out/b")
run("--events", "log.csv", "--out", "closed/c")
run("--events", "log.csv", "--out", "closed/new/c")
run("--events", "log.csv", "--out", "log.csv/c")
run("--events", "log.csv", "--items", "items.csv", "--out", "out/d")
"""


@pytest.fixture
def folder() -> object:
    """A folder anyone may enter: those of pytest are its user's alone."""
    made = Path(tempfile.mkdtemp(prefix="penchant-test-"))
    made.chmod(0o755)
    (made / "out").mkdir()
    (made / "out").chmod(0o777)
    (made / "log.csv").write_text(LOG)
    (made / "log.csv.gz").write_bytes(gzip.compress(LOG.encode()))
    (made / "items.csv").write_text("item_id,image\ni1,secret.csv\n")
    (made / "secret.csv").write_text(LOG)
    yield made
    shutil.rmtree(made)


def lines_of(script: str, folder: Path) -> list[str]:
    """What the command says of each run after the first."""
    done = subprocess.run(
        [sys.executable, "-c", RUN + script],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(folder / "out")},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()[1:]


@pytest.mark.slow
def test_a_file_that_outgrows_the_disk_is_one_line_and_leaves_nothing(folder: Path) -> None:
    store, unpacked = lines_of(LIMITED, folder)
    assert re.fullmatch(r"2 error: out/a: .*(File too large|written)\. .+[.?]", store), store
    assert re.fullmatch(r"2 error: \S+/out: File too large\. Use a disk that takes larger files.+", unpacked), unpacked
    assert [p.name for p in (folder / "out").iterdir()] == ["good"]


def test_what_may_not_be_read_or_written_is_one_line(folder: Path) -> None:
    (folder / "secret.csv").chmod(0)
    (folder / "closed").mkdir(mode=0o700)
    lines = lines_of(NOBODY, folder)
    denied = r"Permission denied\. Give this user the right to it, or use another place\."
    for line, place in zip(lines, ("secret.csv", "closed/log.csv", r"closed/c", r"closed/new/c"), strict=False):
        assert re.fullmatch(rf"2 error: {place}(\.lock)?: {denied}", line), line
    assert re.fullmatch(r"2 error: log\.csv(/c)?: (Not a directory|File exists)\. .+", lines[4]), lines[4]
    assert lines[5].startswith("0 ")
    assert "refused 1: image file cannot be read" in lines[5]
    assert "items.csv line 2: image = 'secret.csv'" in lines[5]
    assert sorted(p.name for p in (folder / "out").iterdir()) == ["d", "good"]


@pytest.mark.slow
def test_a_disk_that_is_truly_full_is_one_line(folder: Path) -> None:
    disk = folder / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root only")
    try:
        (line,) = lines_of('run("--events", "log.csv", "--out", "disk/a")', folder)
        assert re.fullmatch(r"2 error: disk/a: .*(No space left on device|written)\. .+", line), line
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)

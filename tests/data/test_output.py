"""One process at a time, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penchant.data.output import alone, into_place
from penchant.errors import BundleError, RunError


@pytest.mark.parametrize("inside", [False, True])
def test_a_second_holder_is_refused_in_one_line_until_the_first_is_done(inside: bool, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    says = rf"^{out}: another process is at work on it\. Wait for it to end, or choose another folder\.$"
    with alone(out, RunError, inside=inside), pytest.raises(RunError, match=says), alone(out, RunError, inside=inside):
        pass
    with alone(out, RunError, inside=inside):
        pass
    assert not list(tmp_path.rglob("*lock"))


def test_a_lock_that_the_former_holder_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = "penchant.data.output.fcntl.flock"
    monkeypatch.setattr(flock, lambda *_: (tmp_path / "out.lock").unlink())
    with pytest.raises(BundleError, match="another process"), alone(tmp_path / "out", BundleError):
        pass


def test_what_the_killed_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    names = ["out.tmp-1/deep", "out.tmp-2", "out", "out2.tmp-1", "other.tmp-1"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    with alone(tmp_path / "out", RunError):
        assert sorted(p.name for p in tmp_path.iterdir()) == ["other.tmp-1", "out", "out.lock", "out2.tmp-1"]


def test_a_folder_that_grows_is_cleaned_all_through(tmp_path: Path) -> None:
    names = ["checkpoint-3.tmp-1/model", "a.json.tmp-1", "stage/b.json.tmp-1", "stage/b.json", "c.tmp-1/d.tmp-1"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    with alone(tmp_path, RunError, inside=True):
        files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*"))
        assert files == ["lock", "stage", "stage/b.json"]


def test_every_byte_is_forced_to_disk_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "new" / "deep").mkdir(parents=True)
    (tmp_path / "new" / "deep" / "file").write_text("x")
    forced = []

    def fsync(handle: int) -> None:
        forced.append(os.stat(handle).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    inodes = {p.stat().st_ino for p in (tmp_path / "new").rglob("*")} | {(tmp_path / "new").stat().st_ino}
    into_place(tmp_path / "new", tmp_path / "out")
    assert set(forced[:-1]) == inodes
    assert forced[-1] == tmp_path.stat().st_ino
    assert (tmp_path / "out" / "deep" / "file").read_text() == "x"

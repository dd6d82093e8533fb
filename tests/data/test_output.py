"""One process at a time, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penchant.data.output import alone, into_place, made_for, whole
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
    names = ["out.tmp-1/deep", "out.tmp-2", "out", "out2.tmp-1", "other.tmp-1", "out.tmp-old", "out.tmp-1.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    with alone(tmp_path / "out", RunError):
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*names[2:], "out.lock"])


def test_a_folder_that_grows_is_cleaned_all_through(tmp_path: Path) -> None:
    ours = ["checkpoint-3.tmp-1/model", "a.json.tmp-1", "stage/b.json.tmp-1", "c.tmp-1/d.tmp-1"]
    names = [*ours, "stage/b.json", "notes.tmp-old.txt", "stage/c.tmp-1.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    with alone(tmp_path, RunError, inside=True):
        files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*"))
        assert files == ["lock", "notes.tmp-old.txt", "stage", "stage/b.json", "stage/c.tmp-1.txt"]


def test_the_folder_one_stands_in_has_a_lock_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for inside, lock in ((False, "here.lock"), (True, "here/lock")):
        with alone(Path(), RunError, inside=inside):
            assert (tmp_path / lock).is_file()


def test_a_lock_file_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "poetry.lock").write_text("theirs")
    says = r"poetry: needs .*poetry\.lock as its lock, which is another file"
    with pytest.raises(RunError, match=says), alone(tmp_path / "poetry", RunError):
        pass
    assert (tmp_path / "poetry.lock").read_text() == "theirs"


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


@pytest.mark.parametrize("folder", [False, True])
def test_what_is_made_is_there_whole_or_not_at_all(folder: bool, tmp_path: Path) -> None:
    def make(at: Path, text: str, fails: bool = False) -> None:
        if folder:
            at.mkdir()
        (at / "deep" if folder else at).write_text(text)
        if fails:
            raise KeyError

    out = tmp_path / "out"
    with whole(out) as temporary:
        make(temporary, "made")
        assert made_for(temporary) == "out"
        assert not out.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    with pytest.raises(KeyError), whole(out) as temporary:
        make(temporary, "other", fails=True)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (out / "deep" if folder else out).read_text() == "made"

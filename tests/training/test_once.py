"""What many runs begin with is made once, whatever other processes do meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from penchant.data.output import alone
from penchant.errors import RunError
from penchant.training import once
from penchant.training.once import cached, made_once


def read(folder: Path) -> str | None:
    file = folder / "made"
    return file.read_text() if file.is_file() else None


def make(folder: Path) -> str:
    (folder / "made").write_text("here")
    return "here"


def refuse(folder: Path) -> str:
    raise AssertionError("made twice")


def test_what_was_made_is_read_even_while_another_process_holds_its_folder(tmp_path: Path) -> None:
    assert made_once(tmp_path / "a", make, read) == "here"
    with alone(tmp_path / "a", RunError, inside=True):
        assert made_once(tmp_path / "a", refuse, read) == "here"
        with pytest.raises(RunError, match="another process is at work on it"):
            made_once(tmp_path / "a", make)


def test_what_another_process_finished_before_the_lock_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def late(folder: Path, *args: Any, **options: Any) -> Iterator[None]:
        with alone(folder, *args, **options):
            make(folder)
            yield

    monkeypatch.setattr(once, "alone", late)
    assert made_once(tmp_path / "a", refuse, read) == "here"


def test_a_folder_is_named_by_all_that_is_made_there_depends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where caches have it: another name would have hours of work done again."""
    monkeypatch.setenv("PENCHANT_CACHE", str(tmp_path))
    assert cached("karma/warm-up", [1, {"a": 2}]) == tmp_path / "karma" / "warm-up-4e61a7df4b6c481f"
    assert cached("karma/warm-up", [1, {"a": 3}]) != cached("karma/warm-up", [1, {"a": 2}])

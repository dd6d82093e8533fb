"""The workspace: on disk while its process lives, and not a day longer."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from penchant.data.sources.raw import Workspace
from penchant.errors import ConfigError

HOLDS = "from penchant.data.sources.raw import Workspace; w = Workspace(); print(w.folder, flush=True); input()"


@pytest.fixture(autouse=True)
def _own_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def test_the_workspace_of_a_killed_process_is_removed_by_the_next_one_and_no_other(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as other:
        assert other.stdout is not None
        folder = Path(other.stdout.readline().strip())
        (folder / "spill").write_bytes(bytes(1000))
        Workspace().close()
        assert [p.name for p in tmp_path.iterdir()] == [folder.name]  # its process lives
        other.kill()
    assert folder.is_dir()
    Workspace().close()
    assert list(tmp_path.iterdir()) == []


def test_folders_that_are_no_workspace_are_let_be(tmp_path: Path) -> None:
    (tmp_path / "penchant-notes").mkdir()
    (tmp_path / "penchant-run").mkdir()
    (tmp_path / "penchant-run" / "lock").touch()  # as a killed `penchant train --out` leaves it
    Workspace().close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["penchant-notes", "penchant-run"]


def test_memory_is_a_setting(tmp_path: Path) -> None:
    work = Workspace("300MB")
    assert work.rows("SELECT current_setting('memory_limit')") == [("286.1 MiB",)]
    work.close()
    with pytest.raises(ConfigError, match=r"memory is 'much'. Write it as 500MB or 4GB"):
        Workspace("much")

"""`prepare`, `encode` and `train` killed at any moment: nothing half-made is taken for whole, and the same command,
given again, comes to the same bytes as one that was never killed. Two processes on one output: the second is refused.

The commands are the real ones, in real processes (killing.py). A kill is inside the work if it comes
after the first change of a file, and the output is not finished or still locked.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penchant.data.store import Store, sha256
from penchant.errors import RunError, StoreError
from penchant.recipes.runs import load_run
from penchant.serve.bundle import Bundle
from tests.cli.test_main import log_of
from tests.encoders.test_encode import png
from tests.factories import make_store
from tests.killing import Commands, Ended
from tests.tiny_models import WORDS, save_image_model, save_text_model

KILLS = 50
SASREC = ("--model.width", 16, "--model.blocks", 1, "--data.batch-targets", 500, "--train.epochs", 1.5)
OFTEN = ("--train.evaluate-every", 0.25, "--train.checkpoint-every-s", 0, "--train.no-tensorboard")
REFUSED = "another process is at work on it. Wait for it to end, or choose another folder."


@dataclass
class Work:
    """A command, the output it makes in a fresh folder, and what is right for that to hold after a kill.

    Attributes:
        landed: where the kills landed: before the work, inside it, after it.
        whole: the output of a process that was never killed.
    """

    commands: Commands
    home: Path
    landed: Counter[str] = field(default_factory=Counter)
    made: int = 0

    def __post_init__(self) -> None:
        self.home.mkdir()
        self.prepare_inputs()
        self.whole = self.fresh()
        self.once = self.run(self.whole)
        assert self.once.status == 0, self.once.said

    def prepare_inputs(self) -> None: ...
    def args(self, out: Path) -> tuple[object, ...]:
        raise NotImplementedError

    def locks(self, out: Path) -> list[Path]:
        """The files that are there as long as a process is at work on `out`."""
        return [out.with_name(f"{out.name}.lock")]

    def check(self, out: Path) -> bool:
        """Hold that nothing in `out` is half-made; True if it is finished."""
        raise NotImplementedError

    def described(self, out: Path) -> Any:
        """What must be the same however often it was killed."""
        raise NotImplementedError

    def fresh(self) -> Path:
        self.made += 1
        folder = self.home / f"out-{self.made}"
        folder.mkdir()
        return folder / "out"

    def run(self, out: Path, **how: Any) -> Ended:
        return self.commands.run(*self.args(out), watched=out.parent, **how)

    def killed(self, out: Path, **how: Any) -> bool:
        """Run the command and kill it; False if it came to its end before."""
        ended = self.run(out, **how)
        assert ended.status in (0, -9), ended.said
        finished = self.check(out)
        assert finished or ended.status == -9
        if ended.status == -9:
            done = finished and not any(lock.exists() for lock in self.locks(out))
            self.landed["before" if not ended.changes else "after" if done else "inside"] += 1
        return ended.status == -9

    def finish(self, out: Path) -> None:
        """Let it come to its end, and hold it against the one that was never killed."""
        if not self.check(out):
            ended = self.run(out)
            assert ended.status == 0, ended.said
        assert self.check(out)
        assert self.described(out) == self.described(self.whole)
        assert not [p for p in out.parent.rglob("*.tmp-*") if out.parent / "cache" not in p.parents]
        shutil.rmtree(out.parent)

    def killed_at_random(self, kills: int, seed: int) -> None:
        """Chains of kills: an output is killed and gone on with until it is finished, then a fresh one is begun."""
        rng = random.Random(seed)
        while self.landed.total() < kills:
            out = self.fresh()
            while self.landed.total() < kills and not self.check(out):
                self.killed(out, after=rng.uniform(0, self.once.seconds))
            self.finish(out)

    def killed_at_changes(self, points: int) -> None:
        """Kills right before a change of a file: so many, spread over all that one process makes."""
        for change in np.linspace(1, self.once.changes, points).round().astype(int).tolist():
            out = self.fresh()
            self.killed(out, at=change)
            self.finish(out)


class Preparing(Work):
    def prepare_inputs(self) -> None:
        log_of(self.home / "clicks.csv", 150, 40)
        catalogue = pa.table({"item_id": [f"i{i}" for i in range(40)], "image": [png("red")] * 40})
        pq.write_table(catalogue, self.home / "items.parquet")

    def args(self, out: Path) -> tuple[object, ...]:
        inputs = ("--events", self.home / "clicks.csv", "--items", self.home / "items.parquet")
        return ("prepare", "table", *inputs, "--out", out)

    def check(self, out: Path) -> bool:
        if not out.exists():
            return False
        Store(out).verify()
        return True

    def described(self, out: Path) -> Any:
        return Store(out).manifest, {p.name: sha256(p) for p in (out / "splits").iterdir()}


class Encoding(Work):
    """Each output is a copy of one Store, with a cache of its own."""

    def prepare_inputs(self) -> None:
        save_text_model(self.home / "text")
        save_image_model(self.home / "image")
        words = WORDS[4:]
        titles = [f"{words[i % 9]} {words[i // 9 % 9]} {'wool ' * (i % 5)}{i}" for i in range(700)]
        images = [b"broken" if i == 30 else png(f"#{i:06x}") if i % 9 == 0 else None for i in range(700)]
        catalogue = pa.table({"item_id": [f"i{i}" for i in range(700)], "title": titles, "image": images})
        pq.write_table(catalogue, self.home / "items.parquet")
        log = log_of(self.home / "clicks.csv", 5, 8)
        inputs = ("--events", log, "--items", self.home / "items.parquet")
        store = self.home / "store"
        assert self.commands.run("prepare", "table", *inputs, "--out", store, watched=store).status == 0

    def args(self, out: Path) -> tuple[object, ...]:
        return ("encode", out, "--text", self.home / "text", "--image", self.home / "image", "--device", "cpu")

    def run(self, out: Path, **how: Any) -> Ended:
        if not out.exists():
            shutil.copytree(self.home / "store", out)
        return self.commands.run(*self.args(out), watched=out.parent, cache=out.parent / "cache", **how)

    def locks(self, out: Path) -> list[Path]:
        return [out / "vectors" / f"{kind}.lock" for kind in ("text", "image")]

    def check(self, out: Path) -> bool:
        if not out.exists():
            return False
        Store(out).verify()
        made = [kind for kind in ("text", "image") if self._vectors(out, kind) is not None]
        assert all(self._vectors(out, kind) == self._vectors(self.whole, kind) for kind in made)
        return len(made) == 2

    def described(self, out: Path) -> Any:
        return [self._vectors(out, kind) for kind in ("text", "image")]

    def _vectors(self, out: Path, kind: str) -> tuple[str, ...] | None:
        try:
            fingerprint = Store(out).vectors(kind).fingerprint
        except StoreError:
            return None
        files = ("values.npy", "present.npy", "manifest.json")
        return fingerprint, *(sha256(out / "vectors" / kind / file) for file in files)


class Training(Work):
    def prepare_inputs(self) -> None:
        make_store(self.home / "store", num_users=80)

    def args(self, out: Path) -> tuple[object, ...]:
        return ("train", "sasrec", self.home / "store", "--out", out, "--train.device", "cpu", *SASREC, *OFTEN)

    def locks(self, out: Path) -> list[Path]:
        return [out / "lock"]

    def check(self, out: Path) -> bool:
        if (out / "result.json").is_file():
            load_run(out, device="cpu")
            # Checkpoints go once the result is written; where a kill came between, by the next process.
            return not [*out.glob("checkpoint*"), *out.glob("best-*")]
        with pytest.raises(RunError, match="no finished run here"):
            load_run(out, device="cpu")
        return False

    def described(self, out: Path) -> Any:
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        timeless = [{k: v for k, v in line.items() if k != "targets_per_s"} for line in lines]
        result = json.loads((out / "result.json").read_text())
        best = {k: result[k] for k in ("steps", "best_step", "best", "best_metrics")}
        folders = sorted(p.name for p in out.iterdir() if p.is_dir())
        return sha256(out / "model.safetensors"), timeless, best, folders


WORKS = {"prepare": Preparing, "encode": Encoding, "train": Training}


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    running = Commands(tmp_path_factory.mktemp("commands"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def works(commands: Commands) -> dict[str, Work]:
    return {name: work(commands, commands.home / name) for name, work in WORKS.items()}


@pytest.mark.parametrize("name", WORKS)
def test_killed_right_before_a_change_of_a_file_it_comes_to_the_same_bytes(works: dict[str, Work], name: str) -> None:
    works[name].killed_at_changes(3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", WORKS)
def test_killed_before_any_of_many_changes_it_comes_to_the_same_bytes(works: dict[str, Work], name: str) -> None:
    works[name].killed_at_changes(40)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", WORKS)
def test_killed_fifty_times_at_random_it_comes_to_the_same_bytes(works: dict[str, Work], name: str) -> None:
    work = works[name]
    work.landed.clear()
    work.killed_at_random(KILLS, seed=1)
    print(name, dict(work.landed), f"{work.once.changes} changes of files in {work.once.seconds:.1f} s")  # noqa: T201
    assert work.landed["inside"] >= 0.6 * work.landed.total() >= 0.6 * KILLS, work.landed
    # Killed processes leave workspaces in the temporary directory; the next one removes all that were ever worked in.
    assert len(list(work.commands.temporary.glob("penchant-workspace-*/workspace.lock"))) <= 1


@pytest.mark.parametrize("name", WORKS)
def test_a_second_process_is_refused_and_the_first_is_not_harmed(works: dict[str, Work], name: str) -> None:
    work = works[name]
    out = work.fresh()
    refuses_a_second(work.commands, lambda **how: work.run(out, **how), out, at=work.once.changes // 2)
    work.finish(out)


def refuses_a_second(commands: Commands, run: Callable[..., Ended], out: Path, at: int) -> None:
    """Stop a command before its n-th change of a file, give it again, and let the first go on."""
    first = run(at=at, stop=True)
    assert first.status is None, first.said
    second = run()
    assert second.status == 2, second.said
    last = second.said.strip().splitlines()[-1]
    assert last.startswith(f"error: {out}")
    assert last.endswith(f": {REFUSED}")
    assert "Traceback" not in second.said
    first = commands.go_on(first)
    assert first.status == 0, first.said


@pytest.mark.slow
def test_a_second_funnel_and_a_second_export_are_refused(commands: Commands) -> None:
    home = commands.home / "funnel"
    make_store(home / "store", num_users=80)
    sizes = ("--settings.merged-size", 40, "--settings.preranked-size", 20)
    short = ("--prerank-train.epochs", 1, "--rank-train.epochs", 1, "--channels.0.run.train.epochs", 1)
    run, bundle = home / "run", home / "bundle"
    funnel = partial(commands.run, "funnel", home / "store", "--out", run, *sizes, *short, watched=run)
    refuses_a_second(commands, funnel, run, at=10)
    assert (run / "report.html").is_file()
    refuses_a_second(commands, partial(commands.run, "export", run, "--out", bundle, watched=bundle), bundle, at=6)
    Bundle.load(bundle)


@pytest.mark.slow
def test_a_second_reproduce_of_a_row_is_refused_until_its_result_is_written(commands: Commands) -> None:
    home = commands.home / "reproduce"
    make_store(home / "stores" / "ml-1m-all")
    rows = ("--rows", "popularity", "--splits", "loo", "--data", "ml-1m-all")
    places = ("--stores", home / "stores", "--runs", home / "runs", "--results", home / "results")
    row = home / "runs" / "controls" / "retrieval" / "popularity.ml-1m-all.loo.s0"
    reproduce = partial(commands.run, "reproduce", "controls-retrieval", *rows, *places, watched=home / "results")
    refuses_a_second(commands, reproduce, row, at=1)
    assert len(list((home / "results").rglob("*.json"))) == 1

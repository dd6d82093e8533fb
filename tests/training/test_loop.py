"""The training loop: what a kill costs (nothing), what it keeps (the best), what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from penchant.errors import ConfigError, RunError
from penchant.layers import Dropout
from penchant.models import Sizes
from penchant.training.checkpoint import Progress, save_checkpoint
from penchant.training.loop import TrainConfig, fit
from penchant.training.optim import OptimConfig

CONFIG = TrainConfig(epochs=6, optim=OptimConfig(lr=0.05), tensorboard=False, checkpoint_every_s=0.0, device="cpu")


@dataclass(frozen=True)
class TinyConfig:
    width: int = 4


class Tiny(nn.Module):
    """A dense layer with dropout and a sparse table: every kind of state a checkpoint must hold."""

    kind: ClassVar[str] = "tiny"

    def __init__(self) -> None:
        super().__init__()
        self.config, self.sizes = TinyConfig(), Sizes(num_items=9)
        torch.manual_seed(5)
        self.table = nn.Embedding(10, 4, sparse=True)
        self.dense = nn.Linear(4, 1)
        self.dropout = Dropout(0.3)

    def forward(self, rows: Tensor) -> Tensor:
        return self.dense(self.dropout(self.table(rows)))[:, 0]


@dataclass(frozen=True)
class Rows:
    rows: Tensor
    num_targets: int = 5

    def to(self, device: torch.device) -> Rows:
        return replace(self, rows=self.rows.to(device))


class RowBatches:
    steps_per_epoch = 5

    def batch(self, step: int) -> Rows:
        return Rows(torch.randint(0, 10, (5,), generator=torch.Generator().manual_seed(step)))


def to_ones(model: Any, batch: Rows) -> dict[str, Tensor]:
    return {"square": (model(batch.rows) - 1).pow(2).mean()}


def train(run: Path, *, stop_at: int | None = None, config: TrainConfig = CONFIG) -> dict[str, Tensor]:
    model = Tiny()
    fit(model, to_ones, RowBatches(), config, run, should_stop=lambda step: step == stop_at)
    return model.state_dict()


@pytest.mark.parametrize("stop_at", [1, 4, 5, 17, 29])
def test_stopped_run_resumes_to_the_same_weights(tmp_path: Path, stop_at: int) -> None:
    whole = train(tmp_path / "whole")
    train(tmp_path / "cut", stop_at=stop_at)
    resumed = train(tmp_path / "cut")
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


class Reconstruction(nn.Module):
    """An objective with a part that only training needs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.decoder = nn.Linear(1, 4)

    def forward(self, model: Any, batch: Rows) -> dict[str, Tensor]:
        score = model(batch.rows)
        decoded = self.decoder(score[:, None])
        return {**to_ones(model, batch), "decoded": 0.1 * (decoded - model.table(batch.rows)).pow(2).mean()}


def train_with_a_part(run: Path, stop_at: int | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    model, objective = Tiny(), Reconstruction()
    fit(model, objective, RowBatches(), CONFIG, run, should_stop=lambda step: step == stop_at)
    return model.state_dict(), objective.state_dict()


def test_parts_that_only_training_needs_learn_resume_and_are_not_saved_with_the_model(tmp_path: Path) -> None:
    whole = train_with_a_part(tmp_path / "whole")
    assert not torch.equal(whole[1]["decoder.weight"], Reconstruction().decoder.weight)
    assert not torch.equal(whole[0]["dense.weight"], train(tmp_path / "without")["dense.weight"])
    train_with_a_part(tmp_path / "cut", stop_at=17)
    resumed = train_with_a_part(tmp_path / "cut")
    assert all(torch.equal(a[k], b[k]) for a, b in zip(whole, resumed, strict=True) for k in a)
    assert set(load_file(tmp_path / "whole" / "model.safetensors")) == set(Tiny().state_dict())


def test_killed_process_resumes_to_the_same_weights(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tests.training import test_loop as t\n"
        "from penchant.training.loop import fit\n"
        "fit(t.Tiny(), t.to_ones, t.RowBatches(), t.CONFIG, Path(sys.argv[1]),"
        " should_stop=lambda step: time.sleep(0.05) or False)\n"
    )
    root = Path(__file__).parents[2]
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "cut")], cwd=root)
    pointer = tmp_path / "cut" / "checkpoint.json"
    for _ in range(600):
        if pointer.is_file() and json.loads(pointer.read_text())["newest"] != "checkpoint-1":
            break
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    resumed, whole = train(tmp_path / "cut"), train(tmp_path / "whole")
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_resumed_run_logs_each_step_once(tmp_path: Path) -> None:
    slow = replace(CONFIG, checkpoint_every_s=1e9)
    train(tmp_path, stop_at=22, config=slow)  # lines of steps 10 and 20, no checkpoint
    train(tmp_path, config=slow)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [10, 20, 30]


def test_best_weights_are_kept_and_patience_ends_the_run(tmp_path: Path) -> None:
    model = Tiny()
    scores = iter([0.1, 0.9, 0.5, 0.4, 0.3, 0.2])
    seen = {}

    def validate() -> dict[str, float]:
        assert not model.training
        score = next(scores)
        seen[score] = {k: v.clone() for k, v in model.state_dict().items()}
        return {"NDCG@10": score}

    result = fit(model, to_ones, RowBatches(), replace(CONFIG, patience=2), tmp_path, validate)
    assert (result.steps, result.best_step, result.best) == (20, 10, 0.9)
    saved = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(seen[0.9][k], model.state_dict()[k]) and torch.equal(saved[k], seen[0.9][k]) for k in saved)


def test_a_run_that_stops_early_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = iter([0.1, 0.9, 0.5, 0.4])
    fit(Tiny(), to_ones, RowBatches(), replace(CONFIG, patience=2), tmp_path, lambda: {"NDCG@10": next(scores)})
    said = " ".join(capsys.readouterr().out.split())
    assert "20/20 stopped early, best NDCG@10 0.9000 at step 10" in said


class Taught(nn.Module):
    """An objective that learns too."""

    def __init__(self) -> None:
        super().__init__()
        self.goal = nn.Parameter(torch.zeros(1))

    def forward(self, model: Any, batch: Rows) -> dict[str, Tensor]:
        return {"square": (model(batch.rows) - self.goal).pow(2).mean() + (self.goal - 1).pow(2).sum()}


def test_the_objective_is_that_of_the_best_weights(tmp_path: Path) -> None:
    model, objective, seen = Tiny(), Taught(), list[float]()
    scores = [0.1, 0.9, 0.5, 0.4, 0.3, 0.2]

    def validate() -> dict[str, float]:
        seen.append(objective.goal.item())
        return {"NDCG@10": scores[len(seen) - 1]}

    fit(model, objective, RowBatches(), CONFIG, tmp_path, validate)
    assert len(set(seen)) == len(scores)
    assert objective.goal.item() == seen[1]
    again = Taught()
    fit(Tiny(), again, RowBatches(), CONFIG, tmp_path, validate)
    assert torch.equal(again.goal, objective.goal), "a finished run is taken as it is"
    assert "goal" not in load_file(tmp_path / "model.safetensors")


def test_best_weights_are_those_the_checkpoint_speaks_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill came after better weights were written and before the checkpoint; gone on with, they are not as good."""
    model = Tiny()
    scores = [0.5, 0.9]
    seen = {}

    def validate() -> dict[str, float]:
        score = scores.pop(0)
        seen[score] = {k: v.clone() for k, v in model.state_dict().items()}
        return {"NDCG@10": score}

    def killed(run: Path, model: Any, optimizers: Any, progress: Progress) -> None:
        if progress.step == 10:
            raise KeyboardInterrupt
        save_checkpoint(run, model, optimizers, progress)

    monkeypatch.setattr("penchant.training.loop.save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(model, to_ones, RowBatches(), CONFIG, tmp_path, validate)
    monkeypatch.undo()
    model, scores = Tiny(), [0.4, 0.3, 0.2, 0.1, 0.0]
    result = fit(model, to_ones, RowBatches(), CONFIG, tmp_path, validate)
    assert (result.best_step, result.best) == (5, 0.5)
    assert all(torch.equal(seen[0.5][k], v) for k, v in model.state_dict().items())
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["best-5", "checkpoint-30"]


def test_looking_more_often_does_not_change_what_is_learned(tmp_path: Path) -> None:
    def run(name: str, every: float) -> dict[str, Tensor]:
        model = Tiny()

        def validate() -> dict[str, float]:
            torch.rand(7)
            return {"NDCG@10": float(torch.rand(1))}

        config = replace(CONFIG, evaluate_every=every, patience=0)
        fit(model, to_ones, RowBatches(), config, tmp_path / name, validate, should_stop=lambda step: step == 29)
        return model.state_dict()

    often, seldom = run("often", 0.2), run("seldom", 3.0)
    assert all(torch.equal(often[k], seldom[k]) for k in often)


def test_accumulated_batches_equal_one_of_twice_the_size(tmp_path: Path) -> None:
    class Halves(RowBatches):
        def batch(self, step: int) -> Rows:
            whole = RowBatches().batch(step // 2).rows[:4]
            return Rows(whole[:2] if step % 2 == 0 else whole[2:])

    class Wholes(RowBatches):
        def batch(self, step: int) -> Rows:
            return Rows(RowBatches().batch(step).rows[:4])

    states = []
    for batches, accumulate, epochs in ((Halves(), 2, 4.0), (Wholes(), 1, 2.0)):
        model = Tiny()
        model.dropout.rate = 0.0
        config = replace(CONFIG, accumulate=accumulate, epochs=epochs)
        fit(model, to_ones, batches, config, tmp_path / str(accumulate))
        states.append(model.state_dict())
    for key in states[0]:
        torch.testing.assert_close(states[0][key], states[1][key])


def test_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    train(tmp_path, stop_at=2)
    with pytest.raises(RunError, match="other settings"):
        train(tmp_path, config=replace(CONFIG, epochs=7))


def test_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    def broken(model: Any, batch: Rows) -> dict[str, Tensor]:
        return {"square": model(batch.rows).mean() * float("nan")}

    with pytest.raises(RunError, match="not finite at step 1"):
        fit(Tiny(), broken, RowBatches(), CONFIG, tmp_path)


def test_settings_are_stated_once_and_again_if_a_kill_left_them_empty(tmp_path: Path) -> None:
    stated = tmp_path / "settings.fingerprint"
    train(tmp_path, stop_at=2)
    first, file = stated.read_text(), stated.stat().st_ino
    train(tmp_path, stop_at=3)
    assert (stated.read_text(), stated.stat().st_ino) == (first, file)
    stated.write_text("")
    train(tmp_path, stop_at=4)
    assert stated.read_text() == first


def test_a_log_is_whole_at_any_time_of_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path, stop_at=22)
    before = (tmp_path / "metrics.jsonl").read_text()
    monkeypatch.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)
    assert before
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_metric_that_validation_lacks_is_refused_with_those_it_has(tmp_path: Path) -> None:
    config = replace(CONFIG, metric="NDCG@20")
    with pytest.raises(ConfigError, match=r"no metric 'NDCG@20', it has HR@10, NDCG@10\."):
        fit(Tiny(), to_ones, RowBatches(), config, tmp_path, lambda: {"HR@10": 0.5, "NDCG@10": 0.2})


def test_nan_of_the_first_validation_is_never_the_best(tmp_path: Path) -> None:
    scores = iter([float("nan"), 0.3, 0.1, float("nan"), 0.2, 0.2])
    config = replace(CONFIG, patience=0)
    result = fit(Tiny(), to_ones, RowBatches(), config, tmp_path, lambda: {"NDCG@10": next(scores)})
    assert (result.best_step, result.best) == (10, 0.3)


def test_validation_that_is_always_nan_keeps_the_last_weights(tmp_path: Path) -> None:
    model = Tiny()
    result = fit(model, to_ones, RowBatches(), CONFIG, tmp_path, lambda: {"NDCG@10": float("nan")})
    assert (result.steps, result.best) == (30, None)
    saved = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(saved[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0.0),
        ("epochs", float("nan")),
        ("epochs", float("inf")),
        ("accumulate", 0),
        ("evaluate_every", 0.0),
        ("patience", -1),
        ("checkpoint_every_s", -0.1),
        ("seed", -1),
    ],
)
def test_impossible_setting_is_refused_by_name_and_value(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"{name} is {value}\. Set {name} to "):
        replace(CONFIG, **{name: value})


def test_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    train(tmp_path, stop_at=3)
    file = tmp_path / "checkpoint-3" / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(RunError, match="checkpoint-3"):
        train(tmp_path)
    (tmp_path / "checkpoint.json").write_bytes(b"\xff")
    with pytest.raises(RunError, match=r"checkpoint\.json: damaged or cut short .* Remove the run folder"):
        train(tmp_path)

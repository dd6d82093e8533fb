"""The training loop: one for every model, read top to bottom.

A model, an objective, batches that are a pure function of the step, and a validation: that is all it knows. A run that
was killed goes on from its last checkpoint to the very same weights (CPU, same number of threads).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from safetensors.torch import load_file
from torch import Tensor, nn

from penchant.data.store import fingerprint, write_text
from penchant.errors import ConfigError, DivergedError, RunError
from penchant.models import has_bfloat16, pick_device, save_model
from penchant.training.checkpoint import OBJECTIVE, Progress, best_folder, load_checkpoint, save_checkpoint, save_state
from penchant.training.optim import OptimConfig, build_optimizers, rate, set_rate


@runtime_checkable
class Batches(Protocol):
    """Batches by step: the same step gives the same batch in any process.

    A batch has `to(device)`, and `num_targets`: how many it learns from, for the speed shown.
    """

    steps_per_epoch: int

    def batch(self, step: int) -> Any: ...


Objective = Callable[[Any, Any], dict[str, Tensor]]
Validate = Callable[[], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long to train, and what to do every so many steps."""

    epochs: float = 20.0
    """Passes over the training data; the number of steps follows."""
    accumulate: int = 1
    """Batches summed into one step."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    evaluate_every: float = 1.0
    """Epochs between validations."""
    metric: str = "NDCG@10"
    """The validation metric that decides which weights are kept and when to stop; higher is better."""
    patience: int = 5
    """Validations without a better one before training stops; 0 = never."""
    checkpoint_every_s: float = 60.0
    """Seconds between checkpoints; 0 = after every step."""
    tensorboard: bool = True
    """Also write TensorBoard files."""
    device: str = "auto"
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """Of products; weights stay float32. auto: bfloat16 where the processor computes in it."""
    seed: int = 0

    def __post_init__(self) -> None:
        allowed = {
            "epochs": (0 < self.epochs < math.inf, "above 0"),
            "accumulate": (self.accumulate >= 1, "1 or more"),
            "evaluate_every": (0 < self.evaluate_every < math.inf, "above 0"),
            "patience": (self.patience >= 0, "0 (never stop early) or more"),
            "checkpoint_every_s": (self.checkpoint_every_s >= 0, "0 (after every step) or more"),
            "seed": (self.seed >= 0, "0 or more"),
        }
        for name, (holds, needed) in allowed.items():
            if not holds:
                raise ConfigError(f"{name} is {getattr(self, name)}", fix=f"Set {name} to {needed}.")


@dataclass(frozen=True)
class FitResult:
    """What a run came to."""

    steps: int
    best_step: int
    best: float | None
    best_metrics: dict[str, float]
    wall_seconds: float
    cpu_seconds: float


def fit(
    model: nn.Module,
    objective: Objective,
    batches: Batches,
    config: TrainConfig,
    run: Path,
    validate: Validate | None = None,
    *,
    title: str = "training",
    should_stop: Callable[[int], bool] = lambda step: False,
) -> FitResult:
    """Train `model` in place and leave the best weights in it and in `run`; in the objective, those of the same step.

    Args:
        objective: (model, batch) -> named terms; the loss is their sum. One that is a module of its own has parameters
            that only training needs: they are learned and checkpointed with the model's, and never saved with it.
        run: the run folder, which the caller holds (`alone`); a checkpoint in it is gone on from.
        validate: called in evaluation mode; its metrics are logged and `config.metric` chooses.
        should_stop: asked after each step; True ends the call as a kill would, without the closing words.

    Raises:
        RunError: the folder belongs to other settings, or the loss is not finite.
        ConfigError: the first validation has no `config.metric`.
    """
    device = pick_device(config.device)
    steps = max(1, round(config.epochs * batches.steps_per_epoch / config.accumulate))
    eval_steps = max(1, round(config.evaluate_every * batches.steps_per_epoch / config.accumulate))
    half = config.precision == "bfloat16" or (config.precision == "auto" and has_bfloat16(device))
    torch.manual_seed(config.seed)
    learner = nn.ModuleDict({"model": model, "objective": objective}) if isinstance(objective, nn.Module) else model
    learner.to(device)
    optimizers = build_optimizers(learner, config.optim)
    run.mkdir(parents=True, exist_ok=True)
    _same_settings(run, model, config, steps)
    progress = load_checkpoint(run, learner, optimizers)
    log = _Log(run, progress.step, tensorboard=config.tensorboard)
    wall, cpu, saved = time.perf_counter(), time.process_time(), time.perf_counter()
    targets = 0
    stopped_early = _out_of_patience(progress, eval_steps, config)
    with _Bar(title, steps, progress.step, config.metric) as bar:
        while progress.step < steps and not stopped_early:
            learner.train()
            share = rate(progress.step, steps, config.optim)
            set_rate(optimizers, share, config.optim)
            terms: dict[str, float] = {}
            for i in range(config.accumulate):
                batch = batches.batch(progress.step * config.accumulate + i).to(device)
                with torch.autocast(device.type, torch.bfloat16, enabled=half):
                    named = objective(model, batch)
                loss = torch.stack(list(named.values())).sum() / config.accumulate
                loss.backward()
                targets += batch.num_targets
                for name, value in named.items():
                    terms[name] = terms.get(name, 0.0) + float(value.detach()) / config.accumulate
            _step(learner, optimizers, config.optim)
            progress.step += 1
            if not all(v == v and abs(v) != float("inf") for v in terms.values()):
                raise DivergedError(
                    f"the loss is not finite at step {progress.step}: {terms}", where=run, fix="Lower optim.lr."
                )
            now = time.perf_counter()
            speed = targets / (now - wall)

            # Every few steps: a line for people and files.
            if progress.step % 10 == 0 or progress.step == steps:
                log.write(progress.step, {**terms, "lr_share": share, "targets_per_s": speed})
            bar.update(progress, sum(terms.values()), speed)

            # Every epoch or so: validate, keep the best weights.
            if validate is not None and (progress.step % eval_steps == 0 or progress.step == steps):
                metrics = _validated(model, validate)
                log.write(progress.step, {f"valid/{k}": v for k, v in metrics.items()})
                score = _chosen(metrics, config.metric, run)
                # NaN is never the best: nothing would ever be better.
                if not math.isnan(score) and (progress.best is None or score > progress.best):
                    progress.best, progress.best_step, progress.best_metrics = score, progress.step, metrics
                    save_model(model, best_folder(run, progress))
                    if isinstance(objective, nn.Module):
                        save_state(objective, best_folder(run, progress) / OBJECTIVE)
                stopped_early = _out_of_patience(progress, eval_steps, config)

            # Every minute or so: a checkpoint to go on from.
            if now - saved >= config.checkpoint_every_s or progress.step == steps or stopped_early:
                progress.wall_seconds += time.perf_counter() - wall
                progress.cpu_seconds += time.process_time() - cpu
                save_checkpoint(run, learner, optimizers, progress)
                wall, cpu, saved, targets = time.perf_counter(), time.process_time(), time.perf_counter(), 0
            if should_stop(progress.step):
                break
        if stopped_early:
            bar.stopped(progress)
    log.close()
    finished = progress.step >= steps or stopped_early
    if finished and progress.best is not None:
        best = best_folder(run, progress)
        model.load_state_dict(load_file(best / "model.safetensors"))
        if isinstance(objective, nn.Module) and (best / OBJECTIVE).is_file():
            objective.load_state_dict(load_file(best / OBJECTIVE))
    if finished:
        save_model(model, run)
    model.eval()
    return FitResult(
        progress.step,
        progress.best_step,
        progress.best,
        progress.best_metrics,
        progress.wall_seconds,
        progress.cpu_seconds,
    )


def _step(model: nn.Module, optimizers: list[torch.optim.Optimizer], config: OptimConfig) -> None:
    if config.clip:
        dense = [p for p in model.parameters() if p.grad is not None and not p.grad.is_sparse]
        torch.nn.utils.clip_grad_norm_(dense, config.clip)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _validated(model: nn.Module, validate: Validate) -> dict[str, float]:
    """Validation leaves the random state as it was, so that how often one looks does not change what is learned."""
    with torch.random.fork_rng(), torch.no_grad():
        model.eval()
        return validate()


def _chosen(metrics: dict[str, float], name: str, run: Path) -> float:
    """The metric that decides."""
    if name not in metrics:
        raise ConfigError(
            f"validation has no metric {name!r}, it has {', '.join(metrics)}",
            where=run,
            fix="Set metric to one of these, and choose another --out or remove this folder.",
        )
    return metrics[name]


def _out_of_patience(progress: Progress, eval_steps: int, config: TrainConfig) -> bool:
    waited = (progress.step - progress.best_step) // eval_steps
    return bool(config.patience) and progress.best is not None and waited >= config.patience


def _same_settings(run: Path, model: Any, config: TrainConfig, steps: int) -> None:
    """A run folder belongs to one configuration; the first process states it."""
    stated = fingerprint(
        {"model": repr(model.config), "sizes": repr(model.sizes), "train": repr(config), "steps": steps}
    )
    path = run / "settings.fingerprint"
    there = path.read_text() if path.is_file() else ""
    if not there:
        write_text(path, stated)
    elif there != stated:
        raise RunError(
            "this run was started with other settings or data",
            where=run,
            fix="Choose another --out, or remove the folder.",
        )


class _Log:
    """metrics.jsonl (always) and TensorBoard; lines after the checkpoint one goes on from are dropped."""

    def __init__(self, run: Path, step: int, *, tensorboard: bool) -> None:
        path = run / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        write_text(path, "".join(f"{line}\n" for line in kept))
        self._file = path.open("a")
        self._board = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items() if self._board else ():
            assert self._board
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        if self._board:
            self._board.close()


class _Bar:
    """A progress line: loss, best validation, targets a second, time left.

    Args:
        metric: of validation, that "best" is of.
    """

    def __init__(self, title: str, steps: int, done: int, metric: str) -> None:
        self._metric = metric
        self._bar = ProgressBar(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._task = self._bar.add_task(title, total=steps, completed=done, note="")

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def update(self, progress: Progress, loss: float, speed: float) -> None:
        best = "" if progress.best is None else f"best {self._metric} {progress.best:.4f} "
        note = f"loss {loss:.3f} {best}{speed:,.0f} targets/s"
        self._bar.update(self._task, completed=progress.step, note=note)

    def stopped(self, progress: Progress) -> None:
        """Patience ended before the steps did: a bar that stands still would look like a failure."""
        note = f"stopped early, best {self._metric} {progress.best:.4f} at step {progress.best_step:,}"
        self._bar.update(self._task, completed=progress.step, total=progress.step, note=note)

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

"""Checkpoints: everything a run needs to go on to the very same weights, as safetensors and JSON.

run/
  checkpoint.json            names the newest whole checkpoint
  checkpoint-<step>/         model, optimizer, random state (safetensors), progress (JSON)
  best-<step>/               the weights of the best validation so far

A finished run of a recipe has none of them any more.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from penchant.data.output import whole
from penchant.data.store import read_json, write_json
from penchant.errors import RunError
from penchant.training.optim import load_optimizer_tensors, optimizer_tensors

POINTER = "checkpoint.json"


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: steps done.
        best: best validation so far; None before the first.
        best_step: when that was.
        seconds: wall and CPU seconds spent training, over all of the run's processes.
    """

    step: int = 0
    best: float | None = None
    best_step: int = 0
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    best_metrics: dict[str, float] = field(default_factory=dict)


OBJECTIVE = "objective.safetensors"
"""What only training needs, beside the best weights, and beside a finished ranker's: parts of it may be read out."""


def save_state(module: nn.Module, path: Path) -> None:
    """Its weights and buffers."""
    save_file(_plain(module.state_dict()), path)


def best_folder(run: Path, progress: Progress) -> Path:
    """Where the weights of the best validation are. Each has a folder of its own: those a checkpoint speaks of stay."""
    return run / f"best-{progress.best_step}"


def save_checkpoint(run: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], progress: Progress) -> None:
    """Write a checkpoint beside the last, point to it, then drop the last: one whole checkpoint exists at any time.

    As long as the disk keeps its word that holds for a power cut as well (`whole`).
    """
    folder = run / f"checkpoint-{progress.step}"
    random = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state()
    with whole(folder) as temporary:
        temporary.mkdir()
        save_state(model, temporary / "model.safetensors")
        save_file(_plain(optimizer_tensors(optimizers)), temporary / "optimizer.safetensors")
        save_file(random, temporary / "random.safetensors")
        write_json(temporary / "progress.json", asdict(progress))
        shutil.rmtree(folder, ignore_errors=True)  # a kill left it there before anything pointed to it
    write_json(run / POINTER, {"newest": folder.name})
    _drop_others(run, folder, progress)


def load_checkpoint(run: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> Progress:
    """Restore the newest checkpoint; a fresh Progress where there is none.

    Raises:
        RunError: the checkpoint is damaged, or of a model of another shape.
    """
    pointer = run / POINTER
    if not pointer.is_file():
        return Progress()
    fix = "Remove the run folder to start anew."
    folder = run / read_json(pointer, fix, RunError)["newest"]
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
        load_optimizer_tensors(optimizers, load_file(folder / "optimizer.safetensors"))
        random = load_file(folder / "random.safetensors")
        progress = Progress(**json.loads((folder / "progress.json").read_text()))
    except Exception as error:
        raise RunError(f"cannot go on from this checkpoint ({error})", where=folder, fix=fix) from error
    torch.set_rng_state(random["cpu"])
    if "cuda" in random and torch.cuda.is_available():
        torch.cuda.set_rng_state(random["cuda"])
    _drop_others(run, folder, progress)  # a kill may have come before the last process had
    return progress


def drop_checkpoints(run: Path) -> None:
    """Remove what only going on reads, most of a run's bytes: of a run whose result is written."""
    (run / POINTER).unlink(missing_ok=True)
    for old in (*run.glob("checkpoint-*"), *run.glob("best-*")):
        shutil.rmtree(old, ignore_errors=True)


def _drop_others(run: Path, newest: Path, progress: Progress) -> None:
    kept = (newest, best_folder(run, progress))
    for old in (*run.glob("checkpoint-*"), *run.glob("best-*")):
        if old not in kept:
            shutil.rmtree(old, ignore_errors=True)


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in tensors.items()}

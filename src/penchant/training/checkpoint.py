"""Checkpoints: everything a run needs to go on to the very same weights, as safetensors and JSON.

run/
  LOCK                       held while a process trains here
  checkpoint.json            names the newest whole checkpoint
  checkpoint-<step>/         model, optimizer, random state (safetensors), progress (JSON)
  best/                      the weights of the best validation so far
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from penchant.data.store import write_json
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


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the run folder: a second process is refused instead of writing into the same files.

    Raises:
        RunError: another process trains here.
    """
    run.mkdir(parents=True, exist_ok=True)
    with (run / "LOCK").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                "another process trains here", where=run, fix="Wait for it, or choose another --out."
            ) from error
        yield


def save_checkpoint(run: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], progress: Progress) -> None:
    """Write a checkpoint beside the last, point to it, then drop the last: one whole checkpoint exists at any time."""
    folder = run / f"checkpoint-{progress.step}"
    temporary = run / f"{folder.name}.tmp-{os.getpid()}"
    for stale in run.glob("checkpoint-*.tmp-*"):
        shutil.rmtree(stale, ignore_errors=True)
    temporary.mkdir()
    random = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state()
    save_file(_plain(model.state_dict()), temporary / "model.safetensors")
    save_file(_plain(optimizer_tensors(optimizers)), temporary / "optimizer.safetensors")
    save_file(random, temporary / "random.safetensors")
    write_json(temporary / "progress.json", asdict(progress))
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)
    write_json(run / POINTER, {"newest": folder.name})
    for old in run.glob("checkpoint-*"):
        if old.name != folder.name:
            shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(run: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> Progress:
    """Restore the newest checkpoint; a fresh Progress where there is none.

    Raises:
        RunError: the checkpoint is damaged, or of a model of another shape.
    """
    pointer = run / POINTER
    if not pointer.is_file():
        return Progress()
    folder = run / json.loads(pointer.read_text())["newest"]
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
        load_optimizer_tensors(optimizers, load_file(folder / "optimizer.safetensors"))
        random = load_file(folder / "random.safetensors")
        progress = Progress(**json.loads((folder / "progress.json").read_text()))
    except Exception as error:
        raise RunError(
            f"cannot go on from this checkpoint ({error})", where=folder, fix="Remove the run folder to start anew."
        ) from error
    torch.set_rng_state(random["cpu"])
    if "cuda" in random and torch.cuda.is_available():
        torch.cuda.set_rng_state(random["cuda"])
    return progress


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in tensors.items()}

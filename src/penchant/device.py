"""The one setting that says where tensors live."""

from __future__ import annotations

import torch

from penchant.errors import ConfigError


def pick_device(name: str = "auto") -> torch.device:
    """ "auto" (CUDA, then MPS, then CPU), or any name torch knows.

    Raises:
        ConfigError: no such device on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"no device {name!r} on this machine", fix="Use --device cpu or auto.") from error

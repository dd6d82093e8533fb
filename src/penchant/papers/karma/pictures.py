"""KARMA's multimodal item encoder: one transformer over an item's picture and words, as Qwen3-VL reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from PIL import Image
from torch import Tensor

from penchant.papers.karma.items import TextReader

if TYPE_CHECKING:
    from penchant.papers.karma.model import KarmaConfig

MERGED = 4
"""Tokens a picture takes a side: 16 in all."""


class PictureReader(TextReader):
    """[start, the picture's 16 tokens, end, words]; only words for an item without a picture.

    Its words are the tokenizer's own, as the picture's places are among them.
    """

    def __init__(self, config: KarmaConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        whole = self.body.config
        vision = whole.vision_config
        self.size: int = MERGED * vision.patch_size * vision.spatial_merge_size
        """Width and height that pictures are brought to, in pixels."""
        inside = [whole.image_token_id] * MERGED**2
        self._frame = torch.tensor([whole.vision_start_token_id, *inside, whole.vision_end_token_id])
        self._picture = whole.image_token_id
        self.pixels: np.ndarray | None = None
        """uint8 [I+1, size, size, 3]; not saved with the model."""
        self.pictured: np.ndarray | None = None
        """bool [I+1]: which items have a picture that can be read."""
        self.processor: Any = None

    def lengths(self, items: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
        if self.pixels is None or self.pictured is None:
            raise ValueError("the pictures are not here: see recipes/karma/build.py")
        pictured = torch.from_numpy(self.pictured[items.cpu().numpy()]).to(items.device)
        return super().lengths(items) + pictured * len(self._frame)

    def inputs(self, items: Int[Tensor, " N"], length: int) -> tuple[dict[str, Any], Bool[Tensor, "N L"]]:
        assert self.pixels is not None
        assert self.pictured is not None
        chosen = items.cpu().numpy()
        pictured = self.pictured[chosen]
        rows = torch.zeros(len(items), length, dtype=torch.int64, device=items.device)
        real = torch.arange(length, device=items.device) < self.lengths(items)[:, None]
        for row, (item, has) in enumerate(zip(items, pictured, strict=True)):
            words = self.words[item]
            frame = self._frame.to(items.device) if has else self._frame[:0].to(items.device)
            rows[row, : int(real[row].sum())] = torch.cat([frame, words[words >= 0].long()])
        inputs: dict[str, Any] = {"input_ids": rows, "attention_mask": real.long()}
        if pictured.any():
            seen = [Image.fromarray(pixels) for pixels in self.pixels[chosen[pictured]]]
            made = self.processor(seen, return_tensors="pt", do_resize=False).to(items.device)
            inputs |= {"pixel_values": made["pixel_values"], "image_grid_thw": made["image_grid_thw"]}
            inputs["mm_token_type_ids"] = (rows == self._picture).int()
        return inputs, real

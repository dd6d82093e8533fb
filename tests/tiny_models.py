"""Tiny models with random weights, saved as folders: what stands for a pretrained one in tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from penchant.data.store import Store
from penchant.encoders.encode import encode_store

SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "blue", "green", "wool", "silk", "oak", "steel", "glass", "thing"]


def save_tokenizer(folder: Path) -> None:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)


def save_text_model(folder: Path) -> Path:
    """A BERT of two layers and width 16 with a vocabulary of words; texts of up to 24 tokens."""
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=24, **SMALL)).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_image_model(folder: Path) -> Path:
    """A ViT of two layers and width 16 for pictures of 32 x 32."""
    torch.manual_seed(0)
    ViTModel(ViTConfig(image_size=32, patch_size=8, **SMALL)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_language_model(folder: Path, family: str = "llama") -> Path:
    """A causal language model of three layers and width 16, without a padding token."""
    torch.manual_seed(0)
    sizes = {"vocab_size": len(WORDS), **SMALL, "num_hidden_layers": 3}
    if family == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**sizes, num_key_value_heads=1, head_dim=8))
    else:
        model = LlamaForCausalLM(LlamaConfig(**sizes))
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token="[SEP]").save_pretrained(folder)
    return folder


def save_picture_text_model(folder: Path) -> Path:
    """A Qwen3-VL of two layers and width 32, for pictures of 64 x 64 as 16 tokens."""
    torch.manual_seed(0)
    rope = {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True, "rope_theta": 5e6}
    text: dict[str, Any] = {
        "vocab_size": len(WORDS) + 4,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "rope_parameters": rope,
    }
    vision: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "depth": 1,
        "num_heads": 2,
        "patch_size": 8,
        "out_hidden_size": 32,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }
    special = ("image_token_id", "vision_start_token_id", "vision_end_token_id", "video_token_id")
    ids: dict[str, Any] = {name: len(WORDS) + place for place, name in enumerate(special)}
    Qwen3VLModel(Qwen3VLConfig(text_config=text, vision_config=vision, **ids)).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token="[SEP]").save_pretrained(folder)
    Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, temporal_patch_size=2).save_pretrained(folder)
    return folder


def encoded(store: Store, folder: Path, *, pictures: bool = False) -> Store:
    """The Store with vectors of tiny models, which are saved in `folder`, beside the cache they fill."""
    text, image = save_text_model(folder / "text"), save_image_model(folder / "image") if pictures else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENCHANT_CACHE", str(folder / "cache"))
        encode_store(store, text=str(text), image=str(image) if image else None, device="cpu")
    return store

"""KARMA's parts over a Store: texts in the catalogue's words, the decoder, each kind of item encoder; pretrained."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import Int
from PIL import Image
from rich.progress import track
from torch import Tensor

from penchant.data.sources.images import open_picture
from penchant.data.store import Store, cache_root, fingerprint
from penchant.encoders.backbone import Backbone, load_backbone
from penchant.encoders.cache import VectorCache, content_key
from penchant.encoders.packaged import SMOLLM2
from penchant.encoders.pretrained import find_folder, load_part, load_weights, model_fingerprint
from penchant.encoders.text import item_text
from penchant.errors import ConfigError, StoreError
from penchant.models import Sizes
from penchant.papers.karma.items import FrozenVectors, ItemEncoder
from penchant.papers.karma.language import Texts, Vocabulary, another_item
from penchant.papers.karma.model import Karma, KarmaConfig
from penchant.papers.karma.pictures import PictureReader
from penchant.papers.karma.pretrained import described, empty_model, load_pretrained

LONGEST_TEXT = 512
"""Tokens of an item's text that are looked at."""


@dataclass(frozen=True)
class Beginning:
    """What a run begins with.

    Attributes:
        backbone: cut to its layers, with the weights it was continued to.
        key: hash of its weights.
        said: what it is worth as a language model, a line for every table; "" if it was not continued.
    """

    backbone: Backbone
    key: str
    said: str = ""


def item_texts(store: Store) -> list[str]:
    """Title, then further text, of items 1, 2, ..; "" where an item has neither."""
    table = store.table("items", ["title", "text"])
    return [item_text(*pair) for pair in zip(table["title"].to_pylist(), table["text"].to_pylist(), strict=True)]


def read_texts(store: Store, tokenizer: Any, max_words: int) -> Texts:
    """The items' texts in the catalogue's words of a tokenizer.

    Raises:
        StoreError: no item has a text.
    """
    texts = item_texts(store)
    if not any(texts):
        fix = "Give a catalogue; or set warm_up.part to none, objective.generate and objective.reconstruct to 0."
        raise StoreError("no item has a title or a text, which KARMA decodes", where=store.path, fix=fix)
    told = tokenizer(texts, add_special_tokens=False, truncation=True, max_length=LONGEST_TEXT)["input_ids"]
    # A text encoder's tokenizer has marks of another name, or none: it decodes nothing.
    ends = (tokenizer.eos_token_id, tokenizer.sep_token_id, 0)
    end = next(mark for mark in ends if mark is not None)
    begin = next(mark for mark in (tokenizer.bos_token_id, end) if mark is not None)
    vocabulary = Vocabulary.of(told, begin, end)
    return Texts(vocabulary, tuple(vocabulary.numbers(text) for text in told), max_words)


def build_karma(config: KarmaConfig, began: Beginning, store: Store, sizes: Sizes) -> Karma:
    """KARMA over a Store, its decoder the backbone's layers with their weights.

    Raises:
        StoreError: the Store lacks the text vectors, texts or pictures that its item encoder reads.
        ModelUnavailableError: the item encoder's backbone cannot be had.
        ConfigError: a model cannot be tuned, or does not read, as asked.
    """
    causal = began.backbone.model
    config = replace(config, architecture=_as_json(causal.config))
    if config.query != "none":
        config = replace(config, queries=store.manifest["counts"]["queries"])
    builders = {"vectors": _of_vectors, "text": _of_text, "pictures": _of_pictures}
    model = builders[config.items](config, began, store, sizes)
    encoder = model.items
    assert isinstance(encoder, ItemEncoder)
    load_pretrained(model.body, causal.model.state_dict())
    for name, parameter in (*model.body.named_parameters(), *encoder.trunk.named_parameters()):
        if ".parametrizations.weight.0." not in name:  # low-rank additions are new
            parameter.lr_share = config.pretrained_rate  # pyright: ignore[reportAttributeAccessIssue]
    if config.tune == "frozen":
        model.body.requires_grad_(False)
    with torch.no_grad():
        # As long as a word's vector, which is what the decoder has read so far.
        usual = float(causal.get_input_embeddings().weight.pow(2).mean().sqrt())
        encoder.norm.weight.fill_(usual)
        if model.query is not None:
            model.query.norm.weight.fill_(usual)
            model.query.keep(store.query_texts[1:])
    return model


def _of_vectors(config: KarmaConfig, began: Beginning, store: Store, sizes: Sizes) -> Karma:
    content = store.vectors("text")
    model = Karma(replace(config, content_width=content.values.shape[1]), sizes)
    assert isinstance(model.items, ItemEncoder)
    assert isinstance(model.items.trunk, FrozenVectors)
    values = torch.from_numpy(content.standardised())
    model.items.trunk.content.copy_(values[another_item(len(values))] if config.shuffled else values)
    return model


def _of_text(config: KarmaConfig, began: Beginning, store: Store, sizes: Sizes) -> Karma:
    if (config.item_backbone, config.item_layers) == (config.backbone, config.layers):
        body, tokenizer, key = began.backbone.model.model, began.backbone.tokenizer, began.key
    else:
        body, tokenizer = _reader(config)
        key = model_fingerprint(body, {})
    texts = read_texts(store, tokenizer, config.item_words)
    layered = hasattr(body, "layers") and hasattr(body, "norm")
    if config.item_tune == "top" and not layered:
        what = f"item_tune is 'top', and {config.item_backbone!r} is no causal language model"
        raise ConfigError(what, fix="Set model.item_tune to full or lora.")
    tokens = texts.vocabulary.tokens if layered else np.arange(body.config.vocab_size)
    state = dict(body.state_dict())
    if layered:
        # Only the catalogue's words: of a whole vocabulary most rows would never be read.
        state["embed_tokens.weight"] = body.get_input_embeddings().weight.detach()[torch.from_numpy(tokens)]
    shape, below, lower = body.config, None, 0
    if config.item_tune == "top":
        below = lower_states(body, texts, config, key)
        shape = _cut(body.config, config.item_top)
        lower = len(body.layers) - config.item_top
        state = {_lowered(k, lower): v for k, v in state.items()}
    model = Karma(replace(config, item_architecture=_as_json(shape), vocabulary=len(tokens)), sizes)
    assert isinstance(model.items, ItemEncoder)
    trunk = model.items.trunk
    assert not isinstance(trunk, FrozenVectors)
    load_pretrained(trunk.body, state)
    told = texts.words
    if not layered:
        told = _as_tokens(texts)
    trunk.words.copy_(told)
    trunk.below, trunk.num_below = below, lower
    return model


def _of_pictures(config: KarmaConfig, began: Beginning, store: Store, sizes: Sizes) -> Karma:
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

    name = config.item_backbone
    if config.item_tune == "top":
        raise ConfigError("item_tune is 'top', which pictures do not know", fix="Set model.item_tune to full or lora.")
    folder = find_folder(name, SMOLLM2)
    shape = load_part(AutoConfig, folder, name, SMOLLM2)
    if not hasattr(shape, "image_token_id") or not hasattr(shape, "vision_config"):
        fix = "Give one of Qwen3-VL's kind with --model.item-backbone, or set model.items to text or vectors."
        raise ConfigError(f"{name!r} does not read pictures beside words", fix=fix)
    if config.item_layers is not None:
        shape.text_config = _cut(shape.text_config, config.item_layers)
    body, _ = load_weights(AutoModel, folder, name, SMOLLM2, dtype=torch.float32, config=shape)
    texts = read_texts(store, load_part(AutoTokenizer, folder, name, SMOLLM2), config.item_words)
    architecture = _as_json(shape)
    model = Karma(replace(config, item_architecture=architecture, vocabulary=shape.text_config.vocab_size), sizes)
    assert isinstance(model.items, ItemEncoder)
    trunk = model.items.trunk
    assert isinstance(trunk, PictureReader)
    load_pretrained(trunk.body, body.state_dict())
    trunk.words.copy_(_as_tokens(texts))
    trunk.processor = load_part(AutoImageProcessor, folder, name, SMOLLM2, {"backend": "pil"})
    trunk.pixels, trunk.pictured = _pixels(store, trunk.size)
    return model


def lower_states(body: Any, texts: Texts, config: KarmaConfig, key: str) -> np.ndarray:
    """What the frozen lower layers make of every item's words: float16 [I+1, W, E].

    Kept on disk by the hash of the words, so that only new items are read again; held in memory, 2 W E bytes an item.
    """
    lower = empty_model(_as_json(_cut(body.config, len(body.layers) - config.item_top)), body.config.vocab_size)
    load_pretrained(lower, body.state_dict())
    lower.norm = torch.nn.Identity()  # the layers above read what is not yet normalised
    lower.eval()
    longest, width = config.item_words, body.config.hidden_size
    folder = cache_root() / "karma" / f"below-{fingerprint([key, longest, config.item_top])}"
    cache = VectorCache(folder, longest * width)
    rows = texts.words.numpy()
    keys = [content_key(texts.vocabulary.tokens[row[row >= 0]].tobytes()) for row in rows]
    new = [i for i, name in enumerate(keys) if name not in cache]
    tokens = torch.from_numpy(texts.vocabulary.tokens)
    for start in track(range(0, len(new), 64), description="the frozen layers read the items", transient=True):
        some = new[start : start + 64]
        words = texts.words[some]
        with torch.no_grad():
            read = lower(input_ids=tokens[words.clamp(min=0)], attention_mask=(words >= 0).long(), use_cache=False)
        # Some models' first states are beyond what half precision holds.
        most = float(np.finfo(np.float16).max)
        cache.add([keys[i] for i in some], read.last_hidden_state.flatten(1).clamp(-most, most).numpy())
    cache.flush()
    return cache.read(keys).reshape(len(keys), longest, width)


def _reader(config: KarmaConfig) -> tuple[Any, Any]:
    """A causal language model's body or a text encoder, and its tokenizer."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    name = config.item_backbone
    folder = None if name == SMOLLM2.short else find_folder(name, SMOLLM2)
    if folder is None or "ForCausalLM" in str(load_part(AutoConfig, folder, name, SMOLLM2).architectures):
        backbone = load_backbone(name, num_layers=config.item_layers, device="cpu")
        return backbone.model.model, backbone.tokenizer
    shape = load_part(AutoConfig, folder, name, SMOLLM2)
    if config.item_layers is not None:
        shape = _cut(shape, config.item_layers)
    body, _ = load_weights(AutoModel, folder, name, SMOLLM2, dtype=torch.float32, config=shape)
    return body, load_part(AutoTokenizer, folder, name, SMOLLM2)


def _pixels(store: Store, size: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [I+1, size, size, 3], and bool [I+1] which items have a picture that can be read."""
    pixels = np.zeros((store.num_items + 1, size, size, 3), dtype=np.uint8)
    pictured = np.zeros(store.num_items + 1, dtype=bool)
    item = 0
    with pq.ParquetFile(store.path / "items.parquet") as file:
        for batch in file.iter_batches(batch_size=256, columns=["image"]):
            for encoded in batch.column(0).to_pylist():
                item += 1
                picture = open_picture(encoded) if encoded else None
                if picture is not None:
                    pixels[item] = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))
                    pictured[item] = True
    if not pictured.any():
        raise StoreError("no item has a picture that can be read", where=store.path, fix="Set model.items to text.")
    return pixels, pictured


def _as_tokens(texts: Texts) -> Int[Tensor, "I W"]:
    """The words in the tokenizer's own numbers."""
    tokens = torch.from_numpy(texts.vocabulary.tokens)
    return torch.where(texts.words >= 0, tokens[texts.words.clamp(min=0)], -1)


def _cut(config: Any, layers: int) -> Any:
    """The same architecture with so many layers.

    Raises:
        ConfigError: it has fewer.
    """
    if not 0 <= layers <= config.num_hidden_layers:
        what = f"{layers} layers are asked for, the model has {config.num_hidden_layers}"
        raise ConfigError(what, fix=f"Set layers to 1 to {config.num_hidden_layers}.")
    changes: dict[str, Any] = {"num_hidden_layers": layers}
    if getattr(config, "layer_types", None) is not None:
        changes["layer_types"] = config.layer_types[:layers]
    return type(config)(**{**described(config), **changes})


def _lowered(name: str, by: int) -> str:
    """layers.7.mlp -> layers.(7 - by).mlp; a layer below goes under a name that nobody asks for."""
    head, _, rest = name.partition(".")
    if head != "layers":
        return name
    number, _, rest = rest.partition(".")
    return f"layers.{int(number) - by}.{rest}"


def _as_json(config: Any) -> str:
    return json.dumps(described(config), sort_keys=True)

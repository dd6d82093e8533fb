"""KARMA's item encoders: each against reading every item alone; what is frozen is computed once; pictures matter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from penchant.data.store import Store
from penchant.encoders.backbone import load_backbone
from penchant.encoders.cache import VectorCache
from penchant.errors import ConfigError
from penchant.models import sizes_of
from penchant.papers.karma import items as rooms
from penchant.papers.karma.items import ItemEncoder, TextReader
from penchant.papers.karma.model import Karma, KarmaConfig
from penchant.papers.karma.pictures import PictureReader
from penchant.recipes.karma.build import Beginning, build_karma, read_texts
from tests.tiny_models import save_language_model, save_picture_text_model, save_text_model


def build(store: Store, folder: Path, reader: Path | None = None, **config: Any) -> Karma:
    backbone = load_backbone(str(folder), num_layers=2, device="cpu")
    torch.manual_seed(1)
    settings = KarmaConfig(backbone=str(folder), item_backbone=str(reader or folder), width=8, **config)
    return build_karma(settings, Beginning(backbone, "x"), store, sizes_of(store)).eval()


def reader_of(model: Karma) -> TextReader:
    assert isinstance(model.items, ItemEncoder)
    assert isinstance(model.items.trunk, TextReader)
    return model.items.trunk


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENCHANT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_an_items_vector_is_the_mean_of_the_models_states_over_its_words(
    market: Store, tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_language_model(tmp_path / family, family)
    model = build(market, folder, items="text", item_layers=2, item_words=6)
    whole = load_backbone(str(folder), num_layers=2, device="cpu")
    texts = read_texts(market, whole.tokenizer, 6)
    expected = []
    for item in (7, 1, 30, 7, 2):
        words = texts.words[item]
        tokens = torch.from_numpy(texts.vocabulary.tokens)[words[words >= 0]]
        expected.append(whole.model.model(input_ids=tokens[None]).last_hidden_state[0].mean(0))
    monkeypatch.setattr(rooms, "CHUNK_WORDS", 8)  # so that one call takes several chunks
    torch.testing.assert_close(reader_of(model)(torch.tensor([7, 1, 30, 7, 2])), torch.stack(expected))
    assert not reader_of(model)(torch.tensor([0])).any()


def test_a_text_encoder_of_another_kind_reads_items_too(market: Store, language_folder: Path, tmp_path: Path) -> None:
    model = build(market, language_folder, save_text_model(tmp_path / "bert"), items="text", item_layers=1)
    vectors = model.item_vectors()
    assert bool(torch.isfinite(vectors).all())
    assert len(torch.unique(vectors[1:], dim=0)) > 8


def test_chunks_and_their_second_reading_change_no_gradient(
    market: Store, language_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient cache: activations of one chunk at a time, made again in the backward pass."""
    model = build(market, language_folder, items="text")
    items = torch.arange(1, 40)
    aim = torch.randn(39, model.body.config.hidden_size)

    def gradients() -> list[Tensor]:
        model.zero_grad()
        (model.tokens(items) * aim).sum().backward()
        return [p.grad.clone() for p in model.items.parameters() if p.grad is not None]

    whole = gradients()
    monkeypatch.setattr(rooms, "CHUNK_WORDS", 16)
    for one, other in zip(whole, gradients(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_frozen_layers_are_computed_once_and_change_nothing(
    market: Store, language_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = build(market, language_folder, items="text", item_layers=3)
    top = build(market, language_folder, items="text", item_layers=3, item_tune="top", item_top=1)
    items = torch.arange(1, 30)
    # Their lower states are kept in half precision.
    torch.testing.assert_close(reader_of(top)(items), reader_of(full)(items), rtol=1e-2, atol=2e-3)
    assert len(reader_of(top).body.layers) == 1
    kept = {name for name, _ in reader_of(top).named_parameters()}
    assert not any("embed" in name for name in kept)
    added: list[int] = []
    add = VectorCache.add
    monkeypatch.setattr(VectorCache, "add", lambda self, keys, v: (added.extend([len(keys)]), add(self, keys, v))[1])
    again = build(market, language_folder, items="text", item_layers=3, item_tune="top", item_top=1)
    assert not added
    below, before = reader_of(again).below, reader_of(top).below
    assert below is not None
    assert before is not None
    assert np.array_equal(below, before)


def test_only_the_layers_on_top_of_a_text_encoder_can_learn_if_it_has_such(
    market: Store, language_folder: Path, tmp_path: Path
) -> None:
    bert = save_text_model(tmp_path / "bert")
    with pytest.raises(ConfigError, match="is no causal language model"):
        build(market, language_folder, bert, items="text", item_tune="top")
    with pytest.raises(ConfigError, match="9 layers are asked for, the model has 2"):
        build(market, language_folder, bert, items="text", item_layers=9)


def test_pictures_are_read_beside_words_and_items_without_one_by_words_alone(
    market: Store, language_folder: Path, tmp_path: Path
) -> None:
    model = build(market, language_folder, save_picture_text_model(tmp_path / "vl"), items="pictures", item_layers=2)
    reader = reader_of(model)
    assert isinstance(reader, PictureReader)
    assert reader.pictured is not None
    assert reader.pixels is not None
    images = market.table("items", ["image"])["image"].to_pylist()
    assert reader.pictured[1:].tolist() == [image is not None for image in images]
    items = torch.arange(1, 20)
    together = reader(items)
    torch.testing.assert_close(together, torch.cat([reader(item[None]) for item in items]), rtol=1e-4, atol=1e-5)
    # Padding, and an item with neither words nor a picture, among others.
    reader.words[4], reader.pictured[4] = -1, False
    mixed = reader(torch.tensor([0, 1, 2, 4]))
    assert not mixed[[0, 3]].any()
    torch.testing.assert_close(mixed[[1, 2]], together[:2], rtol=1e-4, atol=1e-5)
    reader.words[4], reader.pictured[4] = reader.words[5], True
    together = reader(items)
    reader.pixels[:] = 255 - reader.pixels
    moved = (reader(items) - together).abs().amax(1) > 1e-6
    assert moved.tolist() == reader.pictured[1:20].tolist()
    (model.tokens(items) ** 2).sum().backward()
    assert reader.body.visual.patch_embed.proj.weight.grad.abs().sum() > 0


def test_one_that_reads_no_pictures_is_refused(market: Store, language_folder: Path) -> None:
    with pytest.raises(ConfigError, match="does not read pictures beside words"):
        build(market, language_folder, items="pictures")


def test_low_rank_item_encoders_learn_nothing_else(market: Store, language_folder: Path) -> None:
    model = build(market, language_folder, items="text", item_tune="lora", rank=2)
    learned = {name for name, p in reader_of(model).named_parameters() if p.requires_grad}
    assert learned
    assert all(name.endswith((".0.a", ".0.b")) for name in learned)
    assert replace(model.exported().config, backbone="") == replace(
        build(market, language_folder).exported().config, backbone=""
    )

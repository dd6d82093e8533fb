from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from penchant.encoders.backbone import load_backbone, smollm2_folder
from penchant.encoders.packaged import SMOLLM2
from penchant.errors import ConfigError, ModelUnavailableError
from tests.tiny_models import SMALL, WORDS, save_tokenizer


def test_the_weights_are_those_of_the_folder(language_folder: Path) -> None:
    backbone = load_backbone(str(language_folder), device="cpu")
    expected = AutoModelForCausalLM.from_pretrained(language_folder).state_dict()
    loaded = backbone.model.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)
    assert backbone.width == 16
    assert backbone.tokenizer.pad_token == backbone.tokenizer.eos_token
    assert not backbone.model.training
    assert not any(p.requires_grad for p in backbone.model.parameters())


def test_the_first_layers_are_kept(language_folder: Path) -> None:
    ids = torch.tensor([[4, 5, 6, 7]])
    whole = load_backbone(str(language_folder), device="cpu").model(ids, output_hidden_states=True)
    cut = load_backbone(str(language_folder), num_layers=2, device="cpu").model
    with torch.no_grad():
        expected = cut.model.norm(whole.hidden_states[2])
    torch.testing.assert_close(cut.model(ids).last_hidden_state, expected)
    assert len(cut.model.layers) == 2


def test_layers_of_several_kinds_can_be_cut(tmp_path: Path) -> None:
    config = Qwen3Config(
        vocab_size=len(WORDS),
        head_dim=8,
        num_key_value_heads=2,
        **{**SMALL, "num_hidden_layers": 3},
        max_window_layers=1,
    )
    Qwen3ForCausalLM(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    cut = load_backbone(str(tmp_path), num_layers=1, dtype=torch.bfloat16, device="cpu").model
    assert len(cut.model.layers) == 1
    assert cut.dtype == torch.bfloat16


def test_more_layers_than_there_are_is_an_error(language_folder: Path) -> None:
    for wrong in (0, 4):
        with pytest.raises(ConfigError, match=f"num_layers={wrong}"):
            load_backbone(str(language_folder), num_layers=wrong)


def test_an_unknown_name_is_answered_with_the_packaged_model() -> None:
    with pytest.raises(ModelUnavailableError, match=r"'smollm2'.*`make models`"):
        load_backbone("no-one/no-such-model")


@pytest.mark.slow
@pytest.mark.skipif(not SMOLLM2.installed, reason="the packaged smollm2 is not installed (make models)")
def test_the_packaged_model_is_unpacked_once_and_knows_english() -> None:
    folder = smollm2_folder()
    written = (folder / "model.safetensors").stat().st_mtime_ns
    backbone = load_backbone(dtype=torch.bfloat16, device="cpu")
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert backbone.width == 576

    def loss(text: str) -> float:
        ids = backbone.tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            return float(backbone.model(ids, labels=ids).loss)

    plain = "The cat sat on the mat and looked out of the window at the birds in the garden."
    words = plain.split()
    shuffled = " ".join(words[i] for i in torch.randperm(len(words), generator=torch.Generator().manual_seed(0)))
    assert loss(plain) < 5
    assert loss(shuffled) > loss(plain) + 1

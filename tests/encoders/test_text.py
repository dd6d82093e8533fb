from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, T5Config, T5Model

from penchant.encoders.text import item_text, load_text_encoder
from penchant.errors import ModelUnavailableError
from tests.tiny_models import SMALL, WORDS, save_tokenizer

TEXTS = ["red wool thing", "blue", "steel glass oak silk wool thing red", "", "green unheard thing"]


def hidden_states(folder: Path, text: str) -> np.ndarray:
    """One text alone, so without any padding: [W, D]."""
    tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    model = AutoModel.from_pretrained(folder)
    return model.eval()(**tokens).last_hidden_state[0].detach().numpy()


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def add_sentence_files(folder: Path, pooling: dict[str, object], *, normalize: bool = False) -> None:
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), *([("2_Normalize", "Normalize")] if normalize else [])]
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 6}))


def test_a_vector_is_the_mean_over_the_texts_own_tokens(text_folder: Path) -> None:
    vectors = load_text_encoder(str(text_folder), device="cpu").encode(TEXTS)
    expected = np.stack([hidden_states(text_folder, text).mean(0) for text in TEXTS])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=2e-6)


def test_batching_and_order_do_not_change_vectors(text_folder: Path) -> None:
    encoder = load_text_encoder(str(text_folder), device="cpu")
    together = encoder.encode(TEXTS)
    for size in (1, 2, 3):
        parts = [encoder.encode(TEXTS[i : i + size]) for i in range(0, len(TEXTS), size)]
        np.testing.assert_allclose(np.concatenate(parts), together, atol=2e-6)
    np.testing.assert_allclose(encoder.encode(TEXTS[::-1])[::-1], together, atol=2e-6)


@pytest.mark.parametrize(
    ("config", "oracle"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, lambda h: h.mean(0)),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, lambda h: h[0]),
        ({"pooling_mode_max_tokens": True}, lambda h: h.max(0)),
        ({"pooling_mode": "lasttoken"}, lambda h: h[-1]),
    ],
)
def test_the_pooling_of_sentence_transformers_files_is_followed(
    text_folder: Path, tmp_path: Path, config: dict, oracle
) -> None:
    folder = copied(text_folder, tmp_path / "model")
    add_sentence_files(folder, config, normalize=True)
    encoder = load_text_encoder(str(folder), device="cpu")
    texts = ["red wool thing", "blue"]
    expected = np.stack([oracle(hidden_states(folder, text)) for text in texts])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=2e-6)
    assert encoder.max_tokens == 6


def test_parts_that_are_not_understood_are_refused(text_folder: Path, tmp_path: Path) -> None:
    folder = copied(text_folder, tmp_path / "a")
    add_sentence_files(folder, {"pooling_mode_weightedmean_tokens": True})
    with pytest.raises(ModelUnavailableError, match="pooling_mode_weightedmean_tokens"):
        load_text_encoder(str(folder))
    folder = copied(text_folder, tmp_path / "b")
    (folder / "modules.json").write_text(
        json.dumps([{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}])
    )
    with pytest.raises(ModelUnavailableError, match="'Dense' is not supported"):
        load_text_encoder(str(folder))


def test_long_texts_are_cut_where_the_model_ends(text_folder: Path) -> None:
    encoder = load_text_encoder(str(text_folder), device="cpu")
    assert encoder.max_tokens == 24
    words = ["red", "blue", "oak"] * 20
    whole, cut = encoder.encode([" ".join(words), " ".join(words[:22])])
    np.testing.assert_allclose(whole, cut, atol=2e-6)
    assert load_text_encoder(str(text_folder), device="cpu", max_tokens=5).max_tokens == 5


def test_the_fingerprint_is_of_weights_and_settings(text_folder: Path, tmp_path: Path) -> None:
    def fingerprint(folder: Path, max_tokens: int = 256) -> str:
        return load_text_encoder(str(folder), device="cpu", max_tokens=max_tokens).fingerprint

    same = fingerprint(text_folder)
    assert fingerprint(copied(text_folder, tmp_path / "same")) == same
    other = copied(text_folder, tmp_path / "other")
    state = load_file(other / "model.safetensors")
    state["encoder.layer.1.output.dense.bias"][0] += 1e-3
    save_file(state, other / "model.safetensors", metadata={"format": "pt"})
    heads = copied(text_folder, tmp_path / "heads")
    config = json.loads((heads / "config.json").read_text())
    (heads / "config.json").write_text(json.dumps({**config, "num_attention_heads": 4}))
    words = copied(text_folder, tmp_path / "words")
    (words / "tokenizer.json").write_text((words / "tokenizer.json").read_text().replace('"oak"', '"elm"'))
    seen = [same, fingerprint(other), fingerprint(heads), fingerprint(words), fingerprint(text_folder, max_tokens=7)]
    assert len(set(seen)) == 5


def test_a_checkpoint_without_a_pooler_has_one_fingerprint(tmp_path: Path) -> None:
    # transformers draws the missing pooler at random: it must be no part of the encoder.
    BertModel(BertConfig(vocab_size=len(WORDS), **SMALL), add_pooling_layer=False).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    torch.manual_seed(1)
    first = load_text_encoder(str(tmp_path), device="cpu")
    torch.manual_seed(2)
    second = load_text_encoder(str(tmp_path), device="cpu")
    assert first.fingerprint == second.fingerprint
    assert np.array_equal(first.encode(TEXTS), second.encode(TEXTS))


def test_decoders_and_encoder_decoders_encode_too(language_folder: Path, tmp_path: Path) -> None:
    decoder = load_text_encoder(str(language_folder), device="cpu")
    expected = np.stack([hidden_states(language_folder, text).mean(0) for text in TEXTS[:3]])
    np.testing.assert_allclose(decoder.encode(TEXTS[:3]), expected, atol=2e-6)
    T5Model(T5Config(vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)).save_pretrained(
        tmp_path
    )
    save_tokenizer(tmp_path)
    assert load_text_encoder(str(tmp_path), device="cpu").encode(TEXTS).shape == (5, 16)


@pytest.mark.parametrize("name", ["no-such-model", "no-one/no-such-model", "./no/such/folder", "a/b/c"])
def test_an_unknown_name_is_answered_with_the_packaged_model(name: str) -> None:
    with pytest.raises(ModelUnavailableError) as error:
        load_text_encoder(name)
    message = str(error.value)
    assert repr(name) in message
    assert "'minilm'" in message
    assert "`make models`" in message


def test_a_model_downloaded_before_is_found_without_a_network(
    text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0" * 40
    downloaded = tmp_path / "hub" / "models--someone--tiny"
    (downloaded / "refs").mkdir(parents=True)
    (downloaded / "refs" / "main").write_text(commit)
    copied(text_folder, downloaded / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    encoder = load_text_encoder("someone/tiny", device="cpu")
    assert encoder.name == "someone/tiny"
    assert encoder.fingerprint == load_text_encoder(str(text_folder), device="cpu").fingerprint


def test_a_model_is_never_completed_with_random_weights(text_folder: Path, tmp_path: Path) -> None:
    folder = copied(text_folder, tmp_path / "gap")
    state = load_file(folder / "model.safetensors")
    del state["encoder.layer.0.output.dense.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelUnavailableError, match=r"lack 1 tensors, the first 'encoder\.layer\.0"):
        load_text_encoder(str(folder))


def test_pickled_weights_are_refused(text_folder: Path, tmp_path: Path) -> None:
    folder = copied(text_folder, tmp_path / "pickle")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelUnavailableError, match="safetensors"):
        load_text_encoder(str(folder))


def test_folders_that_are_no_text_encoder_are_refused(text_folder: Path, image_folder: Path, tmp_path: Path) -> None:
    bare = copied(text_folder, tmp_path / "bare")
    (bare / "tokenizer.json").unlink()
    (bare / "tokenizer_config.json").unlink()
    with pytest.raises(ModelUnavailableError):
        load_text_encoder(str(bare))
    save_tokenizer(copied(image_folder, tmp_path / "vision"))
    with pytest.raises(ModelUnavailableError, match="does not encode text alone"):
        load_text_encoder(str(tmp_path / "vision"))
    with pytest.raises(ModelUnavailableError, match=r"no config\.json"):
        load_text_encoder(str(tmp_path))


def test_an_item_is_its_title_then_its_text() -> None:
    assert item_text("Oak chair.", " Made by hand. ") == "Oak chair. Made by hand."
    assert item_text("Oak chair", None) == item_text(" Oak chair", "") == "Oak chair"
    assert item_text(None, "Made by hand.") == "Made by hand."
    assert item_text(None, None) == item_text(" ", "") == ""

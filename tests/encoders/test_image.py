from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModel,
    CLIPConfig,
    CLIPModel,
    ResNetConfig,
    ResNetModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from penchant.encoders.image import load_image_encoder
from penchant.errors import ModelUnavailableError
from tests.tiny_models import SMALL, WORDS


def made_up(count: int = 5) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (20 + 9 * i, 50, 3), dtype=np.uint8)) for i in range(count)]


def pixels(picture: Image.Image) -> torch.Tensor:
    """ViTImageProcessor's documented steps by hand: bilinear 32 x 32, to [0, 1], minus 0.5, over 0.5."""
    small = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR), np.float32) / 255
    return torch.from_numpy((small - 0.5) / 0.5).permute(2, 0, 1)[None]


def with_processor(folder: Path) -> Path:
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_a_vector_is_the_pooled_output(image_folder: Path) -> None:
    pictures = made_up()
    model = AutoModel.from_pretrained(image_folder).eval()
    expected = torch.cat([model(pixels(p)).pooler_output for p in pictures]).detach().numpy()
    encoder = load_image_encoder(str(image_folder), device="cpu")
    np.testing.assert_allclose(encoder.encode(pictures), expected, atol=1e-5)
    for size in (1, 3):
        parts = [encoder.encode(pictures[i : i + size]) for i in range(0, 5, size)]
        np.testing.assert_allclose(np.concatenate(parts), expected, atol=1e-5)


def test_without_a_pooler_it_is_the_mean_of_the_tokens(tmp_path: Path) -> None:
    ViTModel(ViTConfig(image_size=32, patch_size=8, **SMALL), add_pooling_layer=False).save_pretrained(tmp_path)
    with_processor(tmp_path)
    pictures = made_up(2)
    model = AutoModel.from_pretrained(tmp_path).eval()
    expected = torch.cat([model(pixels(p)).last_hidden_state.mean(1) for p in pictures]).detach().numpy()
    torch.manual_seed(1)
    first = load_image_encoder(str(tmp_path), device="cpu")
    torch.manual_seed(2)
    second = load_image_encoder(str(tmp_path), device="cpu")
    np.testing.assert_allclose(first.encode(pictures), expected, atol=1e-5)
    assert first.fingerprint == second.fingerprint


def test_convolutional_and_joint_models_encode_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1])).save_pretrained(tmp_path / "r")
    assert load_image_encoder(str(with_processor(tmp_path / "r")), device="cpu").encode(made_up(3)).shape == (3, 12)
    vision = {"image_size": 32, "patch_size": 8, "projection_dim": 6}
    words = {"vocab_size": len(WORDS), "bos_token_id": 2, "eos_token_id": 3}
    joint = CLIPConfig(text_config=SMALL | words, vision_config=SMALL | vision, projection_dim=6)
    CLIPModel(joint).save_pretrained(tmp_path / "c")
    encoder = load_image_encoder(str(with_processor(tmp_path / "c")), device="cpu")
    model = AutoModel.from_pretrained(tmp_path / "c").eval()
    picture = made_up(1)[0]
    expected = model.get_image_features(pixel_values=pixels(picture)).pooler_output.detach().numpy()
    np.testing.assert_allclose(encoder.encode([picture]), expected, atol=1e-5)


def test_the_fingerprint_is_of_weights_and_preprocessing(image_folder: Path, tmp_path: Path) -> None:
    same = load_image_encoder(str(image_folder), device="cpu").fingerprint
    assert load_image_encoder(str(shutil.copytree(image_folder, tmp_path / "same"))).fingerprint == same
    other = Path(shutil.copytree(image_folder, tmp_path / "other"))
    described = (other / "preprocessor_config.json").read_text()
    (other / "preprocessor_config.json").write_text(described.replace("0.5", "0.4"))
    assert load_image_encoder(str(other), device="cpu").fingerprint != same


def test_what_is_no_image_encoder_is_answered_with_the_packaged_model(text_folder: Path) -> None:
    for name in ("no-such-model", str(text_folder)):
        with pytest.raises(ModelUnavailableError) as error:
            load_image_encoder(name)
        message = str(error.value)
        assert repr(name) in message
        assert "'efficientnet-lite0'" in message
        assert "`make models`" in message

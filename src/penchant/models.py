"""Saving and loading any model: `model.safetensors` and `model.json`, nothing that could run code; and the device.

Every model is built from its own frozen `Config` and the catalogue's `Sizes`; everything else about it (weights,
counts, the items' categories) is in its state.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from penchant.data.output import whole
from penchant.data.store import Store, write_json
from penchant.errors import ConfigError, RunError


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a model must know of the data before it can be built.

    Attributes:
        num_features: dense features of a (request, candidate) pair; rankers only.
        num_codes, code_columns: codes of fields, and how many columns each field has; rankers only.
    """

    num_items: int
    num_categories: int = 0
    num_features: int = 0
    num_codes: int = 0
    code_columns: tuple[int, ...] = ()


def sizes_of(store: Store, num_features: int = 0) -> Sizes:
    """What models must know of a Store."""
    return Sizes(num_items=store.num_items, num_categories=store.num_categories, num_features=num_features)


READER = "reader"
"""Folder beside a run's model with what tells its vectors in words; no part of finding anything."""

# kind -> "module:class". Named in files, imported when needed: a bundle of two models loads the code of two.
KINDS = {
    "popularity": "penchant.baselines.counted.popularity:Popularity",
    "markov": "penchant.baselines.counted.markov:Markov",
    "item_knn": "penchant.baselines.counted.item_knn:ItemKNN",
    "sasrec": "penchant.baselines.retrieval.sasrec:SASRec",
    "gru4rec": "penchant.baselines.retrieval.gru4rec:GRU4Rec",
    "two_tower": "penchant.baselines.retrieval.two_tower:TwoTower",
    "youtube_dnn": "penchant.baselines.retrieval.youtube_dnn:YouTubeDNN",
    "mind": "penchant.baselines.retrieval.mind:MIND",
    "comirec_sa": "penchant.baselines.retrieval.comirec:ComiRecSA",
    "comirec_dr": "penchant.baselines.retrieval.comirec:ComiRecDR",
    "caser": "penchant.baselines.retrieval.caser:Caser",
    "bert4rec": "penchant.baselines.retrieval.bert4rec:BERT4Rec",
    "stosa": "penchant.baselines.retrieval.stosa:STOSA",
    "contrast_vae": "penchant.baselines.retrieval.contrast_vae:ContrastVAE",
    "diffurec": "penchant.baselines.retrieval.diffurec:DiffuRec",
    "dat": "penchant.baselines.retrieval.dat:DAT",
    "karma": "penchant.papers.karma.model:Karma",
    "ulim": "penchant.papers.ulim.model:ULIM",
    "t2diff": "penchant.papers.t2diff.model:T2Diff",
    "t2diff_causal": "penchant.papers.t2diff.causal:CausalT2Diff",
    "t2diff_union": "penchant.papers.t2diff.causal:CausalT2DiffUnion",
    "mean_pooling": "penchant.baselines.ranking.mean_pooling:MeanPooling",
    "din": "penchant.baselines.ranking.din:DIN",
    "wide_deep": "penchant.baselines.ranking.wide_deep:WideDeep",
    "frnet": "penchant.baselines.ranking.frnet:FRNet",
    "gru4rec_ranker": "penchant.baselines.ranking.gru4rec:GRU4RecRanker",
    "bst": "penchant.baselines.ranking.bst:BST",
    "simtier": "penchant.baselines.ranking.simtier:SimTier",
    "unisrec": "penchant.baselines.ranking.unisrec:UniSRec",
    "lrd": "penchant.baselines.ranking.lrd:LRD",
    "dimo": "penchant.baselines.ranking.dimo:DIMO",
    "dmae": "penchant.papers.dmae.model:DMAE",
    "light_two_tower": "penchant.funnel.prerank:LightTwoTower",
}


def build_model(kind: str, config: dict[str, Any], sizes: Sizes, cls: Any = None) -> Any:
    """The model class of that kind, or `cls`, built with fresh weights from plain values."""
    if cls is None:
        module, name = KINDS[kind].split(":")
        cls = getattr(import_module(module), name)
    return cls(cls.Config(**_from_json(config)), sizes)


def _from_json(values: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def save_model(model: nn.Module, folder: Path) -> None:
    """Write a model to a folder. It has `kind`, `config` (a frozen dataclass) and `sizes`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    with whole(folder / "model.safetensors") as temporary:
        save_file(state, temporary)
    model_any: Any = model
    write_json(
        folder / "model.json",
        {"kind": model_any.kind, "config": asdict(model_any.config), "sizes": asdict(model_any.sizes)},
    )


def load_model(folder: Path, device: torch.device | str = "cpu", cls: Any = None) -> Any:
    """The model saved in a folder, in evaluation mode.

    Args:
        cls: of a model that is no kind above, because nothing that serves may know it.

    Raises:
        RunError: the folder has no model, or its files are damaged; the message names the file.
    """
    described = folder / "model.json"
    if not described.is_file():
        raise RunError("no model here", where=folder, fix="Train one with `penchant train`.")
    try:
        saved = json.loads(described.read_text())
        model = build_model(saved["kind"], saved["config"], Sizes(**_from_json(saved["sizes"])), cls)
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (
        ValueError,  # of JSON, and of letters that are not UTF-8
        SafetensorError,
        KeyError,
        TypeError,
        RuntimeError,
        FileNotFoundError,
    ) as error:
        raise RunError(f"damaged or of another version ({error})", where=folder, fix="Train it again.") from error
    return model.to(device).eval()


def pick_device(name: str = "auto") -> torch.device:
    """ "auto" (CUDA, then MPS, then CPU), or any name torch knows.

    Raises:
        ConfigError: no such device on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"no device {name!r} on this machine", fix="Use --device cpu or auto.") from error


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself; elsewhere it would be imitated, and slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type == "cpu":
        can = torch.cpu.get_capabilities()
        return bool(can.get("amx_bf16") or can.get("avx512_bf16"))
    return False

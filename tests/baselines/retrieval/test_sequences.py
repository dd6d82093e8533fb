"""What all models of sequences owe: they learn what is planted, see no future, and resume to the very same weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from penchant.baselines.retrieval.auxiliary import (
    CaserObjectiveConfig,
    ClozeConfig,
    ContrastVAEObjectiveConfig,
    DATObjectiveConfig,
    DiffuRecObjectiveConfig,
    SequenceObjectiveConfig,
    STOSAObjectiveConfig,
    sequence_objective,
)
from penchant.baselines.retrieval.objective import SoftmaxConfig
from penchant.data.batch import SequenceBatch, SequenceBatches, SequenceDataConfig
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.models import Sizes, build_model, sizes_of
from penchant.training.loop import TrainConfig, fit
from penchant.training.optim import OptimConfig
from tests.checkerboard import requests_of

NUM_ITEMS = 12
SMALL: dict[str, Any] = {"width": 16, "dropout": 0.1, "max_len": 8}
LEARNED: dict[str, tuple[str, dict[str, Any], SequenceObjectiveConfig]] = {
    "caser": ("caser", SMALL, CaserObjectiveConfig()),
    "caser published": ("caser", SMALL, CaserObjectiveConfig(loss="published", ahead=1)),
    "bert4rec": ("bert4rec", SMALL, ClozeConfig(newest_only=0.3)),
    "stosa": ("stosa", {**SMALL, "blocks": 1}, STOSAObjectiveConfig()),
    "stosa published": ("stosa", {**SMALL, "blocks": 1}, STOSAObjectiveConfig(loss="published")),
    "contrast_vae": ("contrast_vae", SMALL, ContrastVAEObjectiveConfig()),
    "contrast_vae published": ("contrast_vae", SMALL, ContrastVAEObjectiveConfig(loss="published")),
    "diffurec": ("diffurec", {**SMALL, "embedding_dropout": 0.1, "steps": 8}, DiffuRecObjectiveConfig()),
    "dat": ("dat", {**SMALL, "inner": 32, "num_users": 20}, DATObjectiveConfig()),
    "dat published": ("dat", {**SMALL, "inner": 32, "num_users": 20}, DATObjectiveConfig(loss="published")),
}
CAUSAL = ("caser", "stosa", "contrast_vae", "dat")
COUNTS = torch.ones(NUM_ITEMS + 1, dtype=torch.int64)


def made(name: str, sizes: Sizes | None = None) -> tuple[Any, Any]:
    """A model with fresh weights and its objective."""
    kind, config, objective = LEARNED[name]
    torch.manual_seed(0)
    model = build_model(kind, config, sizes or Sizes(num_items=NUM_ITEMS, num_categories=2))
    return model, sequence_objective(objective, COUNTS if sizes is None else torch.ones(sizes.num_items + 1).long())


def walks(rows: int, length: int) -> SequenceBatch:
    """Planted: item i is followed by i + 1, the last one by the first; pieces of all lengths from 2."""
    start = torch.randint(0, NUM_ITEMS, (rows, 1))
    sequence = (start + torch.arange(length + 1)) % NUM_ITEMS + 1
    sequence = sequence * (torch.arange(length + 1) < torch.randint(2, length + 2, (rows, 1)))
    return SequenceBatch(sequence[:, :-1] * (sequence[:, 1:] > 0), sequence[:, 1:], users=torch.randint(0, 21, (rows,)))


@pytest.mark.parametrize("name", [name for name in LEARNED if "published" in name])
def test_a_planted_successor_is_learned_by_the_published_loss(name: str) -> None:
    """Of the defaults `test_contracts.py` asks the same."""
    model, objective = made(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = torch.stack(list(objective(model, walks(24, 4)).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    histories = [[(s + n) % NUM_ITEMS + 1 for n in range(length)] for s in range(NUM_ITEMS) for length in (1, 3)]
    with torch.no_grad():
        found = (model.user_vectors(requests_of(*histories)) @ model.item_vectors().T)[:, 1:].argmax(1) + 1
    right = sum(int(i) == h[-1] % NUM_ITEMS + 1 for i, h in zip(found, histories, strict=True))
    assert right >= 0.9 * len(histories), f"{right} of {len(histories)}"


@pytest.mark.parametrize("name", CAUSAL)
def test_the_future_changes_nothing_before_it(name: str) -> None:
    model, _ = made(name)
    model.eval()
    history = torch.tensor([[3, 9, 1, 7, 2, 5]])
    with torch.no_grad():
        before = model.hidden(history)
        for t in range(1, 6):
            changed = history.clone()
            changed[:, t:] = 11
            torch.testing.assert_close(model.hidden(changed)[:, :t], before[:, :t], rtol=1e-5, atol=1e-6)
            assert not torch.allclose(model.hidden(changed)[:, t], before[:, t])


@pytest.mark.parametrize("name", ["bert4rec", "diffurec", *CAUSAL])
def test_gradients_reach_every_part_and_no_padding(name: str) -> None:
    model, objective = made(name)
    model.train()
    torch.manual_seed(1)
    torch.stack(list(objective(model, walks(40, 6)).values())).sum().backward()
    for part, parameter in model.named_parameters():
        if part == "categories.weight" and not model.item_category.any():
            continue  # only row 0 is read
        assert parameter.grad is not None, part
        assert parameter.grad.abs().sum() > 0, part
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding) and module.padding_idx == 0:
            assert module.weight.grad is not None
            assert not module.weight.grad[0].any()


@pytest.mark.parametrize("name", [*CAUSAL, "caser published", "stosa published", "dat published"])
def test_padding_at_the_end_of_a_batch_changes_no_loss(name: str) -> None:
    model, objective = made(name)
    model.eval()
    if isinstance(objective, torch.nn.Module):
        objective.eval()
    batch = walks(10, 5)
    wide = replace(
        batch, **{part: torch.nn.functional.pad(getattr(batch, part), (0, 2)) for part in ("history", "targets")}
    )
    losses = []
    for given in (batch, wide):
        torch.manual_seed(2)
        losses.append({term: float(value.detach()) for term, value in objective(model, given).items()})
    losses[1] = {k: v for k, v in losses[1].items() if k != "kl"}  # its weight rises by the batch
    assert losses[1] == {k: pytest.approx(v, rel=1e-4, abs=1e-6) for k, v in losses[0].items() if k != "kl"}


@pytest.mark.parametrize("name", ["bert4rec", "diffurec", "contrast_vae", "dat", "stosa published", "caser published"])
def test_a_run_that_was_cut_draws_on_as_if_it_had_not_been(store: Store, tmp_path: Path, name: str) -> None:
    config = TrainConfig(
        epochs=1, optim=OptimConfig(lr=0.01), tensorboard=False, checkpoint_every_s=0.0, device="cpu", seed=3
    )

    def train(run: str, stop_at: int | None = None) -> dict[str, torch.Tensor]:
        model, objective = made(name, sizes_of(store))
        data = SequenceDataConfig(max_len=8, batch_targets=200)
        batches = SequenceBatches(store, load_split(store, "loo"), data, seed=3)
        assert batches.steps_per_epoch > 4
        fit(model, objective, batches, config, tmp_path / run, should_stop=lambda step: step == stop_at)
        return model.state_dict()

    whole = train("whole")
    train("cut", stop_at=3)
    resumed = train("cut")
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_batches_say_whose_the_pieces_are(store: Store) -> None:
    batches = SequenceBatches(store, load_split(store, "loo"), SequenceDataConfig(max_len=5, batch_targets=80), seed=1)
    batch = batches.batch(2)
    assert batch.users is not None
    for user, row in zip(batch.users.tolist(), batch.targets.tolist(), strict=True):
        own = store.event_item[store.user_indptr[user] : store.user_indptr[user + 1]].tolist()
        piece = [i for i in row if i]
        assert any(own[n : n + len(piece)] == piece for n in range(len(own)))


def test_the_softmax_alone_is_the_objective_of_its_config() -> None:
    model, _ = made("stosa")
    model.eval()
    batch = walks(5, 4)
    alone, inside = (sequence_objective(c, COUNTS)(model, batch) for c in (SoftmaxConfig(), STOSAObjectiveConfig()))
    assert torch.equal(alone["softmax"], inside["softmax"])


@pytest.mark.parametrize("name", ["caser", "bert4rec", "stosa", "contrast_vae", "diffurec", "dat"])
def test_large_catalogues_are_sampled(name: str) -> None:
    model, _ = made(name)
    config: Any = LEARNED[name][2]
    sampled = replace(config, softmax=SoftmaxConfig(full_up_to_items=5, num_sampled=4))
    assert "sampled_softmax" in sequence_objective(sampled, COUNTS)(model, walks(6, 4))

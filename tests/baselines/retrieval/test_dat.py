"""DAT: its towers, what mimics what and what does not learn from it, and the alignment of categories."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from penchant.baselines.retrieval import auxiliary
from penchant.baselines.retrieval.auxiliary import DATObjective, DATObjectiveConfig, mimicry, misalignment
from penchant.baselines.retrieval.dat import DAT, DATConfig
from penchant.data.batch import SequenceBatch
from penchant.data.history import Requests
from penchant.errors import ConfigError
from penchant.models import Sizes
from tests.checkerboard import requests_of

BATCH = SequenceBatch(
    torch.tensor([[1, 2], [5, 0]]), torch.tensor([[2, 3], [6, 0]]), users=torch.tensor([4, 1], dtype=torch.int64)
)


@pytest.fixture
def model() -> DAT:
    torch.manual_seed(1)
    model = DAT(DATConfig(width=8, inner=12, max_len=4, num_users=5), Sizes(num_items=9, num_categories=3))
    model.set_categories(torch.tensor([0, 1, 1, 1, 2, 2, 2, 3, 3, 0]))
    return model.eval()


def of_users(requests: Requests, *users: int) -> Requests:
    return Requests(torch.tensor(users), requests.times_ms, requests.history, requests.history_times_ms)


@torch.no_grad()
def test_each_tower_reads_its_augmented_vector(model: DAT) -> None:
    history = [9, 1, 5, 2, 2, 7]
    x = model.items.weight + model.categories.weight[model.item_category]
    latest = x[history[-4:]]
    user = model.user_tower(torch.cat([latest.mean(0), latest[-1], model.augmented_users.weight[3]]))
    found = model.user_vectors(of_users(requests_of(history), 3))[0]
    torch.testing.assert_close(found, user / user.norm() / 0.05, rtol=1e-4, atol=1e-5)
    item = model.item_tower(torch.cat([x[4], model.augmented_items.weight[4]]))
    torch.testing.assert_close(model.item_vectors()[4], item / item.norm(), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_users_nobody_has_trained_on_are_all_alike(model: DAT) -> None:
    requests = requests_of([1, 2], [1, 2], [1, 2], [1, 2])
    unknown, new, known, other = model.user_vectors(of_users(requests, 0, 6, 5, 4))
    assert torch.equal(unknown, new)
    assert not torch.allclose(unknown, known)
    assert not torch.allclose(known, other)
    torch.testing.assert_close(unknown, model.hidden(requests.history)[0, 1])


def test_who_mimics_learns_and_who_is_mimicked_does_not() -> None:
    a, p = torch.randn(2, 3, 4).unbind()
    a.requires_grad_()
    p.requires_grad_()
    found = mimicry(a, p)
    np.testing.assert_allclose(
        found.detach(),
        [sum((x - y) ** 2 for x, y in zip(r, q, strict=True)) for r, q in zip(a.tolist(), p.tolist(), strict=True)],
        rtol=1e-5,
    )
    found.sum().backward()
    assert a.grad is not None
    assert p.grad is None


def test_categories_are_aligned_with_the_largest_by_a_loop() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(10, 3))
    categories = [2, 1, 1, 2, 2, 3, 0, 0, 1, 2]

    def covariance(rows: np.ndarray) -> np.ndarray:
        centred = rows - rows.mean(0)
        return np.sum([np.outer(row, row) for row in centred], axis=0) / (len(rows) - 1)

    of = {c: vectors[[i for i, k in enumerate(categories) if k == c]] for c in (1, 2)}
    expected = ((covariance(of[1]) - covariance(of[2])) ** 2).sum()  # 3 has one item, 0 is none
    found = misalignment(torch.from_numpy(vectors), torch.tensor(categories))
    assert float(found) == pytest.approx(expected)
    assert float(misalignment(torch.from_numpy(vectors), torch.zeros(10, dtype=torch.int64))) == 0


@torch.no_grad()
def test_the_objective_is_the_sum_as_printed(model: DAT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auxiliary, "_others", lambda targets, *_: targets[:, None] % 9 + 1)
    config = DATObjectiveConfig(
        loss="published", negatives=1, mimic_user=0.5, mimic_item=0.25, align=2.0, strangers=0.0
    )
    found = DATObjective(config, torch.ones(10).long())(model, BATCH)
    items = model.item_vectors().numpy()
    users = model.directions(BATCH.history, BATCH.users).numpy()
    binary, mimic_user, mimic_item = [], [], []
    for row, t, user, i in ((0, 0, 4, 2), (0, 1, 4, 3), (1, 0, 1, 6)):
        chances = 1 / (1 + np.exp(-users[row, t] @ items.T / 0.05))
        binary.append(-np.log(chances[i]) - np.log(1 - chances[i % 9 + 1]))
        mimic_user.append(((model.augmented_users.weight[user].numpy() - items[i]) ** 2).sum())
        mimic_item.append(((model.augmented_items.weight[i].numpy() - users[row, t]) ** 2).sum())
    assert float(found["binary"]) == pytest.approx(np.mean(binary), rel=1e-3)
    assert float(found["mimic_user"]) == pytest.approx(0.5 * np.mean(mimic_user), rel=1e-4)
    assert float(found["mimic_item"]) == pytest.approx(0.25 * np.mean(mimic_item), rel=1e-4)
    expected = 2 * misalignment(torch.from_numpy(items[[2, 3, 6]]), torch.tensor([1, 1, 2]))
    assert float(found["align"]) == pytest.approx(float(expected), rel=1e-4)


@torch.no_grad()
def test_hidden_users_are_strangers_who_mimic_nothing(model: DAT) -> None:
    config = DATObjectiveConfig(strangers=1.0)
    found = DATObjective(config, torch.ones(10).long())(model, BATCH)
    nobody = DATObjective(config, torch.ones(10).long())(model, SequenceBatch(BATCH.history, BATCH.targets))
    assert found == nobody
    assert float(found["mimic_user"]) == 0


def test_terms_without_weight_are_left_out(model: DAT) -> None:
    config = DATObjectiveConfig(mimic_user=0.0, mimic_item=0.0, align=0.0)
    assert list(DATObjective(config, torch.ones(10).long())(model, BATCH)) == ["softmax"]


def test_without_categories_and_users_it_works_the_same() -> None:
    model = DAT(DATConfig(), Sizes(num_items=3)).eval()
    assert model.item_vectors().shape == (4, 64)
    assert model.user_vectors(requests_of([1])).shape == (1, 64)


@pytest.mark.parametrize("config", [{"negatives": 0}, {"mimic_user": -1.0}, {"align": -1.0}, {"strangers": 2.0}])
def test_impossible_losses_are_refused(config: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(config))):
        DATObjectiveConfig(**config)  # pyright: ignore[reportArgumentType]

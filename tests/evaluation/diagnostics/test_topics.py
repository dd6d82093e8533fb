"""Topics of texts against scikit-learn's TF-IDF and an exact decomposition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from penchant.evaluation.diagnostics.content import ridge_r2
from penchant.evaluation.diagnostics.meaning import terms_of
from penchant.evaluation.diagnostics.topics import topics

SUBJECTS = ("red wool scarf winter warm", "steel knife kitchen sharp cook", "oak table garden wood chair")


def texts_of(subjects: np.ndarray) -> list[str]:
    """Three words of each one's subject, and a number that no other has."""
    rng = np.random.default_rng(0)
    return [" ".join([*rng.permutation(SUBJECTS[s].split())[:3], f"no{n}"]) for n, s in enumerate(subjects)]


def test_topics_are_the_leading_directions_of_tf_idf() -> None:
    texts = [*texts_of(np.arange(60) % 3), "", "of the", "alone"]
    by_terms: Any = terms_of  # scikit-learn's annotation knows names of analyzers alone
    exact = TfidfVectorizer(analyzer=by_terms, min_df=2).fit_transform(texts).toarray()
    left, strength, _ = np.linalg.svd(exact, full_matrices=False)
    for count in (3, 50):
        found = topics(texts, count)
        expected = (left * strength)[:, :count]
        # The same but for each direction's sign, and those beyond the rank, which are nothing.
        np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-6)
    assert not topics(texts)[60:].any()
    assert topics(["", "of"]).shape == (2, 0)


def test_they_are_the_same_again_and_draw_nothing_of_anybody_elses() -> None:
    texts = texts_of(np.arange(90) % 3)
    before = torch.get_rng_state()
    first = topics(texts, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    assert np.array_equal(topics(texts, seed=4), first)


def test_what_an_item_is_about_is_read_off_a_vector_of_it_and_not_off_another() -> None:
    rng = np.random.default_rng(1)
    subjects = rng.integers(0, 3, 300)
    told = topics(texts_of(subjects), 2)
    vectors = np.eye(3)[subjects] + 0.1 * rng.normal(size=(300, 3))
    assert ridge_r2(vectors, told) > 0.8
    assert ridge_r2(rng.permutation(vectors), told) == pytest.approx(0.0, abs=0.1)

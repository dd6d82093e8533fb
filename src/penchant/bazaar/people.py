"""Who shops: interests over categories that come, go and return; tastes that turn slowly; purses; activity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from penchant.bazaar.config import BazaarConfig

STEADY, RETURNING = 4, 2
"""Interests of a user that last, and that sleep and return; one more takes over if the first is given up."""

SLOTS = STEADY + RETURNING + 1
TASTE = 8
"""Width of a taste."""

FOREVER = 10**6
AWAKE_DAYS = 21
"""How long a returning interest is awake."""

ACTIVITY_SIGMA = 1.2
"""Spread of the logarithm of activity: with it, 6 users in a thousand do ten times the mean."""

ACTIVITY_MOST = 25.0
"""Bound of activity, whose median is 1: twelve times the mean, so that nobody lives in the shop."""


@dataclass(frozen=True)
class People:
    """The users 1..U; row 0 is padding.

    Attributes:
        leaf: int32 [U+1, J], the leaf category (from 1) of each interest.
        strength: float32 [U+1, J], how strong it is while awake.
        since, until: int32 [U+1, J], days between which it is there at all.
        period: int32 [U+1, J], it is awake for the first AWAKE_DAYS of every so many days.
        theme, style: float32 [2, U+1, 8], the plane in which each taste turns: where it starts, and a quarter turn on.
        level: float32 [U+1], the purse, in standard deviations of log price within a category.
        activity: float32 [U+1], the user's part in all sessions while they are there, relative.
        joined: int32 [U+1], the first day.
    """

    leaf: np.ndarray
    strength: np.ndarray
    since: np.ndarray
    until: np.ndarray
    period: np.ndarray
    theme: np.ndarray
    style: np.ndarray
    level: np.ndarray
    activity: np.ndarray
    joined: np.ndarray
    drift: float

    def interests(self, users: Int[np.ndarray, " R"], day: int) -> Float[np.ndarray, "R J"]:
        """Share of each interest slot in the user's present interests; 0 where it sleeps. Rows sum to 1."""
        since = self.since[users]
        awake = (since <= day) & (day < self.until[users]) & ((day - since) % self.period[users] < AWAKE_DAYS)
        strength = self.strength[users] * awake
        return strength / strength.sum(axis=1, keepdims=True)

    def tastes(
        self, users: Int[np.ndarray, " R"], day: int
    ) -> tuple[Float[np.ndarray, "R 8"], Float[np.ndarray, "R 8"]]:
        """The tastes in theme and in style that day.

        p(t) = cos(x) p_0 + sin(x) p_1, x = drift pi/2 t / 365: a turn in a plane, which keeps the scale of a taste.
        """
        turn = self.drift * np.pi / 2 * day / 365
        cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        first, second = (cos * taste[0, users] + sin * taste[1, users] for taste in (self.theme, self.style))
        return first, second


def make_people(config: BazaarConfig, leaf_weights: Float[np.ndarray, " C"], seed: int) -> People:
    """Draw the users.

    Args:
        leaf_weights: how often each of the leaves 1..C (from position 0) is somebody's interest, relative.
    """
    rng = np.random.default_rng([seed, 1])
    n, knobs = config.users + 1, config.knobs
    leaf = 1 + rng.choice(len(leaf_weights), (n, SLOTS), p=leaf_weights / leaf_weights.sum()).astype(np.int32)
    strength = rng.gamma(0.7, 1.0, (n, SLOTS)).astype(np.float32) + np.float32(0.05)
    strength[:, 0] += np.float32(0.5)
    strength[:, SLOTS - 1] = strength[:, 0]
    since = np.zeros((n, SLOTS), dtype=np.int32)
    until = np.full((n, SLOTS), FOREVER, dtype=np.int32)
    period = np.full((n, SLOTS), AWAKE_DAYS, dtype=np.int32)
    # The first interest is given up at the first event of a Poisson process; the last slot takes its place.
    switched = np.minimum(rng.exponential(1.0, n) * 365 / max(knobs.switch, 1e-9), FOREVER).astype(np.int32)
    until[:, 0] = since[:, SLOTS - 1] = switched
    sleeping = slice(STEADY, STEADY + RETURNING)
    period[:, sleeping] = rng.integers(60, 150, (n, RETURNING))
    since[:, sleeping] = -rng.integers(0, 150, (n, RETURNING))
    until[rng.random(n) >= knobs.returning, sleeping] = -FOREVER
    strength[:, sleeping] += 1
    joined = rng.integers(-int(0.7 * config.days), max(1, int(0.9 * config.days)), n)
    return People(
        leaf=leaf,
        strength=strength,
        since=since,
        until=until,
        period=period,
        theme=rng.standard_normal((2, n, TASTE)).astype(np.float32),
        style=rng.standard_normal((2, n, TASTE)).astype(np.float32),
        level=rng.normal(0.0, 0.8, n).astype(np.float32),
        activity=np.minimum(rng.lognormal(0.0, ACTIVITY_SIGMA, n), ACTIVITY_MOST).astype(np.float32),
        joined=np.maximum(joined, 0).astype(np.int32),
        drift=knobs.drift,
    )

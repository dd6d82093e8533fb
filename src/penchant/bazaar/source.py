"""The generated market as a source: `penchant prepare bazaar --size small --out stores/bazaar-small`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penchant.bazaar.config import SIZES, BazaarConfig, Knobs
from penchant.bazaar.policies import ShopPolicy
from penchant.bazaar.world import World
from penchant.data.sources.raw import MEMORY, Raw, Workspace, text


@dataclass(frozen=True)
class Bazaar:
    """A generated market, whose truth is known: queries, pictures, exposures, long histories. All of it is synthetic.

    Example: penchant prepare bazaar --size tiny --out stores/bazaar-tiny
    """

    size: Literal["tiny", "small", "large"] = "small"
    """300 users, 500 items, 20 thousand actions; 3 thousand, 4 thousand, 300 thousand; 20 thousand, 50 thousand,
    10 million. What follows changes it."""
    users: int | None = None
    items: int | None = None
    days: int | None = None
    actions: int | None = None
    """Clicks, or more. None: the size's for each user and day, so that it grows with --users and --days."""
    leaves: int | None = None
    """Leaf categories; one for 20 items if None, between 8 and 200."""
    seed: int = 0
    pictures: bool = True
    """Draw the items' pictures."""
    knobs: Knobs = field(default_factory=Knobs)

    def config(self) -> BazaarConfig:
        """The whole config.

        Raises:
            ConfigError: an impossible value.
        """
        size = SIZES[self.size]
        given = {key: getattr(self, key) for key in ("users", "items", "days", "leaves")}
        config = replace(
            size, seed=self.seed, knobs=self.knobs, **{key: value for key, value in given.items() if value is not None}
        )
        scaled = round(size.actions * config.users * config.days / (size.users * size.days))
        return replace(config, actions=self.actions if self.actions is not None else max(1, scaled))


def read(options: Bazaar, memory: str = MEMORY) -> Raw:
    """All days of the market under the shop's own policy, its items and its users.

    Raises:
        ConfigError: an impossible value.
    """
    config = options.config()
    world = World(config)
    work = Workspace(memory)
    _write_days(world, work)
    for table in ("events", "impressions"):
        files = text(work.folder / f"{table}.parquet")
        work.db.execute(f"CREATE VIEW raw_{table} AS SELECT * FROM read_parquet({files})")
    people = world.market.people
    changed = any((options.users, options.items, options.days, options.actions, options.leaves))
    changed |= options.knobs != Knobs()
    return Raw(
        name="-".join(["bazaar", "own" if changed else options.size, *([f"s{config.seed}"] if config.seed else [])]),
        source="bazaar",
        work=work,
        impressions="raw_impressions",
        items=pa.concat_tables(world.market.catalogue.batches(options.pictures)),
        users=pa.table(
            {
                "user_id": [f"u{u}" for u in range(1, config.users + 1)],
                "joined_day": people.joined[1:],
            }
        ),
        generator=asdict(config),
        notes=["All of it is synthetic: a generated market, docs/bazaar.md."],
    )


def _write_days(world: World, work: Workspace) -> None:
    """The logs of all days as two Parquet files of the workspace, a part of a day in memory at a time."""
    with ExitStack() as stack:
        writers: dict[str, pq.ParquetWriter] = {}
        rows = {"events": 0, "impressions": 0}
        for name, table in _tables(world):
            numbered = table.append_column("row", pa.array(np.arange(rows[name], rows[name] + table.num_rows)))
            rows[name] += table.num_rows
            if name not in writers:
                path = work.folder / f"{name}.parquet"
                writers[name] = stack.enter_context(pq.ParquetWriter(path, numbered.schema, compression="zstd"))
            writers[name].write_table(numbered)


def _tables(world: World) -> Iterator[tuple[str, pa.Table]]:
    for log in world.step(ShopPolicy(world.market), world.config.days):
        yield "events", log.events()
        yield "impressions", log.impressions()

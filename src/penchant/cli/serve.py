"""penchant export, penchant serve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from tyro.conf import Positional, UseAppendAction

from penchant.cli.arguments import parse
from penchant.data.split import load_split
from penchant.data.store import Store, read_json
from penchant.errors import RunError
from penchant.funnel.calibration import Kind
from penchant.funnel.pipeline import load_funnel
from penchant.recipes.funnel.calibrate import calibrate_funnel
from penchant.recipes.runs import AGAIN, RUN
from penchant.serve import app
from penchant.serve.export import check_new
from penchant.serve.export import export as export_bundle


@dataclass(frozen=True, kw_only=True)
class Export:
    """Pack what serving needs of a funnel into a bundle: models without their objectives, items, histories, checksums.

    $ penchant export runs/funnel --out bundles/shop
    $ penchant export runs/funnel --out bundles/shop --calibrate isotonic
    """

    run: Positional[Path]
    """Folder that `penchant funnel` made."""
    out: Path
    """Where the bundle goes; it must not exist."""
    store: Path | None = None
    """The Store, where it is not where the run found it."""
    calibrate: Kind | None = None
    """Lists also tell each item's chance of being the next click, learned from the funnel's own lists on the valid
    window: temperature = a slope and an offset; isotonic = any curve that never falls, for which more clicks are
    needed. The order stays."""
    reader: bool = False
    """Take along what tells KARMA's vectors in words, for `penchant serve --read`."""


def export(args: Sequence[str]) -> None:
    """Export a funnel."""
    chosen = parse("export", Export, args)
    described = chosen.run / RUN
    if not described.is_file():
        raise RunError("no funnel here", where=chosen.run, fix="Make one with `penchant funnel STORE --out RUN`.")
    check_new(chosen.out)  # before minutes of calibration
    told = read_json(described, AGAIN, RunError)
    store = Store(chosen.store or told["store"]["path"])
    console = Console(stderr=True, highlight=False)
    calibration = None
    if chosen.calibrate:
        split = load_split(store, told["split"]["name"])
        calibration = calibrate_funnel(load_funnel(chosen.run), store, split, chosen.calibrate)
        if calibration.ece:
            before, after = calibration.ece
            console.print(f"Calibration error on users it was not learned from: {after:.4f}, without {before:.4f}")
    readers = None
    if chosen.reader:
        from penchant.recipes.karma.served import export_reader as readers
    export_bundle(chosen.run, store, chosen.out, calibration, readers=readers)
    console.print(f"Bundle in [bold]{chosen.out}[/]. Next: penchant serve {chosen.out}")


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Serve a bundle over HTTP: /v1/recommend, /v1/search, /v1/events, and a page at / to look at it.

    A damaged bundle is refused with the name of the damaged file. Binds to this machine alone unless told otherwise.

    $ penchant serve bundles/shop
    $ penchant serve bundles/shop --port 9000 --events shop-events.sqlite
    $ penchant serve bundles/shop --read                    /v1/interest and the page tell what a user's vector says
    $ curl -s localhost:8000/v1/recommend -H 'content-type: application/json' -d '{"user_id": "42", "k": 5}'
    """

    bundle: Positional[Path]
    """Folder that `penchant export` made."""
    host: str = "127.0.0.1"
    """Address to bind to; anything but loopback lets others in, and there is no log-in."""
    port: int = 8000
    events: Path | None = None
    """File of the event log; beside the bundle where none is given."""
    allow_host: UseAppendAction[tuple[str, ...]] = ()
    """A name by which the server may be asked, beside localhost: the public one, where a proxy passes it on."""
    read: bool = False
    """Load the bundle's reader too, which tells users' interests in words, one request at a time; it takes memory, and
    time while it tells, and no part in finding."""
    deadline_ms: float | None = None
    """Channels that search category by category (ULIM) begin no further category so long after a request reached them:
    the likeliest are searched first."""


def serve(args: Sequence[str]) -> None:
    """Serve until interrupted."""
    chosen = parse("serve", Serve, args)
    read = None
    if chosen.read:
        from penchant.recipes.karma.served import BundleReader

        read = BundleReader
    app.serve(
        chosen.bundle,
        host=chosen.host,
        port=chosen.port,
        events=chosen.events,
        allow_hosts=chosen.allow_host,
        deadline_ms=chosen.deadline_ms,
        read=read,
    )

"""What a prepared Store holds and what was refused: for the manifest, and printed."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from penchant.data.sources.raw import Raw
from penchant.data.store import Store


def manifest_entries(raw: Raw) -> dict[str, Any]:
    """What the manifest keeps of where the data came from: source, view, refusals, notes, generator."""
    return {
        "source": raw.source,
        "view": raw.view,
        "dated_from_ms": raw.dated_from_ms,
        "refused": [asdict(r) for r in raw.refused],
        "notes": raw.notes,
        "synthetic": raw.generator is not None,
        "generator": raw.generator,
    }


def print_summary(store: Store, console: Console) -> None:
    """Counts, dates, history lengths, refused rows with their places, notes."""
    m = store.manifest
    counts = m["counts"]
    table = Table(title=f"{escape(store.name)}  {store.fingerprint}", show_header=False, title_justify="left")
    for key in ("users", "items", "categories", "events", "requests", "impressions", "queries"):
        if counts[key]:
            table.add_row(key, f"{counts[key]:,}")
    if m["time_range_ms"]:
        first, last = (datetime.fromtimestamp(t / 1000, UTC).date().isoformat() for t in m["time_range_ms"])
        table.add_row("dates", f"{first} to {last}")
    else:
        table.add_row("dates", "none: the order of rows is the order of events; only the split loo is possible")
    q = m["history_length_quartiles"]
    table.add_row("events a user", f"min {q[0]:,}, quartiles {q[1]:,} / {q[2]:,} / {q[3]:,}, max {q[4]:,}")
    table.add_row("splits", ", ".join(sorted(p.stem for p in store.path.glob("splits/*.json"))))
    table.add_row("rows refused", f"{sum(r['count'] for r in m['refused']):,}")
    console.print(table)
    for r in m["refused"]:
        console.print(f"[yellow]refused[/] {r['count']:,}: {escape(r['reason'])}. {escape(r['fix'])}", soft_wrap=True)
        for sample in r["samples"]:
            console.print(f"    {escape(sample)}", highlight=False, soft_wrap=True)
    for note in (*m["notes"], *_repeated(m)):
        console.print(f"[cyan]note[/] {escape(note)}", highlight=False, soft_wrap=True)


def _repeated(manifest: dict[str, Any]) -> list[str]:
    """A note of events that others repeat; without times, none says whether one was logged twice."""
    count = manifest["repeated_events"]
    if not count or not manifest["has_time"]:
        return []
    says = "All are kept; if they were logged twice, leave them out first: docs/data.md says how."
    return [f"{count:,} events repeat user, item and time of an earlier one. {says}"]

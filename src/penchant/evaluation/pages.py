"""How a report becomes one HTML file: styles and drawings inside it, no script, nothing loaded from anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


def percent(share: float) -> str:
    """0.1234 as "12.3 %", the space not breaking."""
    return f"{100 * share:.1f}\u00a0%"


def page_template(path: Path, filters: Mapping[str, Callable[..., str]]) -> Template:
    """The template at `path`, which may import `parts.html`, the style and the parts that all pages share.

    Everything a template shows is escaped, unless it is `Markup`.

    Args:
        filters: beside `percent`, by the names they have in the template.
    """
    environment = Environment(
        loader=FileSystemLoader([path.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, **filters}
    return environment.get_template(path.name)

"""Write constraints.txt from what `.venv` has installed. `make lock` runs it, with that environment's Python.

Only what pyproject.toml's dependencies and development tools lead to is listed, so a package somebody tried out
does not get in. To take newer releases: `.venv/bin/pip install --upgrade -e ".[dev]"`, `make test`, `make lock`.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEADER = """\
# The versions that Penchant is developed and tested with: its dependencies, its development tools, and theirs.
# Made by `make lock` from the installed environment; tools/lock.py says how to move to newer releases.
# torch carries no build tag, so that the CPU and the CUDA build fit alike.
"""


def closure(root: str, extras: tuple[str, ...]) -> dict[str, str]:
    """Version of every installed package that `root` with `extras` leads to, by canonical name; `root` left out."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(root, extra) for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            raise SystemExit(f"make lock: {name} is not installed. Run `make setup` first.") from None
        found[name] = installed.version.split("+")[0] if name == "torch" else installed.version
        for line in installed.requires or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(needed.name), inner) for inner in ("", *needed.extras)]
    del found[root]
    return found


def main() -> None:
    pins = closure("penchant", ("dev",))
    lines = [f"{name}=={version}\n" for name, version in sorted(pins.items())]
    (Path(__file__).resolve().parents[1] / "constraints.txt").write_text(HEADER + "".join(lines))
    print(f"constraints.txt: {len(pins)} packages")


if __name__ == "__main__":
    main()

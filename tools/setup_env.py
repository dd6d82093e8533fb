"""Make `.venv`: Penchant with its development tools, at the versions of constraints.txt. `make setup` runs it.

    python3 tools/setup_env.py [--torch cpu|cuda]

Needs the standard library alone, and starts on Python 3.7 so that an old one gets a clear message. When nothing has
changed since the last time it only says so. A CUDA build of torch (about 3 GB with its libraries) is never
downloaded on a machine without an NVIDIA GPU unless asked for.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST = (3, 11)
CANDIDATES = ("python3.11", "python3.12", "python3.13", "python3.14", "python3", "python")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
STAMP = "penchant-setup.json"


class SetupError(Exception):
    """Something the user has to decide or mend; the message says what."""


def output(command: list[str]) -> tuple[int, str]:
    """Exit status of a command and everything it printed."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout.decode(errors="replace")


def call(command: list[str]) -> None:
    """Run a command in sight of the user."""
    if subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
        raise SetupError(f"this failed, its own message is above:\n  {' '.join(command)}")


def say(text: str) -> None:
    print(text, flush=True)


def has_gpu() -> bool:
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia").exists()


def find_python() -> str:
    """A Python of at least OLDEST that can make virtual environments; the one running this where it will do.

    Raises:
        SetupError: there is none; the message lists what was found.
    """
    found = []
    for name in (sys.executable, *CANDIDATES):
        path = shutil.which(name)
        if path is None:
            continue
        status, version = output([path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
        if status:  # a pyenv shim of a version that is not switched on
            continue
        version = version.strip()
        if tuple(map(int, version.split("."))) < OLDEST:
            found.append(f"{path} is {version}")
        elif output([path, "-c", "import venv, ensurepip"])[0]:
            found.append(f"{path} is {version} but lacks venv (on Debian and Ubuntu: apt install python3-venv)")
        else:
            return path
    raise SetupError(
        "Penchant needs Python {}.{} or newer.\n  ".format(*OLDEST)
        + "\n  ".join(dict.fromkeys(found))
        + "\nInstall a newer one, or run this file with it: python3.x tools/setup_env.py"
    )


def pinned(constraints: Path, name: str) -> str:
    """The version that constraints.txt gives a package."""
    found = re.search(rf"^{name}==(\S+)$", constraints.read_text(), re.MULTILINE)
    if found is None:
        raise SetupError(f"{constraints}: no line {name}==VERSION. Restore the file, or run `make lock`.")
    return found.group(1)


def versions_on_offer(python: str, *options: str) -> tuple[list[str], str]:
    """The torch versions that pip could install here, newest first, and what pip said. Downloads no package.

    `pip install --dry-run` would not do: where an index serves no separate metadata it fetches every wheel whole.
    """
    _, text = output([python, "-m", "pip", "index", "versions", "torch", *options])
    found = re.search(r"^Available versions: (.*)$", text, re.MULTILINE)
    return (found.group(1).split(", ") if found else []), text


def choose_build(versions: list[str], version: str, wanted: str, platform: str) -> str | None:
    """Of the builds of `version` (2.13.0, 2.13.0+cpu, 2.13.0+cu130) the one wanted, None where there is none.

    An index's untagged build needs CUDA on Linux and does not elsewhere.
    """
    builds = [v for v in versions if v.split("+")[0] == version]
    if wanted == "cuda":
        fit = [v for v in builds if "+cpu" not in v]
    elif platform == "linux":
        fit = [v for v in builds if "+cpu" in v]
    else:
        fit = [v for v in builds if "+cu" not in v]
    return fit[0] if fit else None


def install_torch(python: str, version: str, wanted: str, platform: str = sys.platform) -> None:
    """Install the wanted build of torch unless it is there already.

    Raises:
        SetupError: a CPU build is wanted and none can be had.
    """
    status, text = output([python, "-c", "from importlib.metadata import version; print(version('torch'))"])
    if status == 0 and choose_build([text.strip()], version, wanted, platform):
        return
    versions, said = versions_on_offer(python)
    build, options = choose_build(versions, version, wanted, platform), []
    if build is None and wanted == "cpu":
        options = ["--extra-index-url", CPU_INDEX]
        offered, _ = versions_on_offer(python, "--index-url", CPU_INDEX, "--timeout", "10", "--retries", "1")
        build = choose_build(offered, version, wanted, platform)
    if build is None and not versions:
        raise SetupError(f"pip finds no torch at all. Is a package index reachable? It said:\n{said}")
    if build is None and wanted == "cuda":
        raise SetupError(f"no CUDA build of torch {version} for this Python on the configured package indexes.")
    if build is None:
        offer = ", ".join(v for v in versions if v.split("+")[0] == version) or f"no build of {version}"
        raise SetupError(
            f"no CPU build of torch {version} can be had, and this machine has no NVIDIA GPU.\n"
            f"  the configured package indexes offer {offer}: on Linux the CUDA build, about 3 GB with its libraries\n"
            f"  {CPU_INDEX} cannot be reached, or has none for this Python\n"
            "Two ways out:\n"
            "  make setup TORCH=cuda              take that build after all; it runs on the CPU as well\n"
            f"  PIP_FIND_LINKS=FOLDER make setup   where FOLDER holds torch-{version}+cpu-*.whl, fetched from the\n"
            "                                     address above on a machine that reaches it"
        )
    say(f"Installing torch {build} ...")
    # Three equal signs: 2.13.0 must not be answered by 2.13.0+cpu.
    requirement = f"torch=={build}" if "+" in build else f"torch==={build}"
    call([python, "-m", "pip", "install", "-qq", *options, "-c", str(ROOT / "constraints.txt"), requirement])


def describe_torch(python: str) -> str:
    """Which torch this environment has, in a line."""
    code = (
        "import torch; cuda = torch.version.cuda; print('torch', torch.__version__ + ':', "
        "f'CUDA {cuda} build,' if cuda else 'CPU build,', "
        "('GPU in reach,' if torch.cuda.is_available() else 'no GPU in reach,') if cuda else '', "
        "torch.get_num_threads(), 'threads')"
    )
    status, text = output([python, "-c", code])
    if status:
        raise SetupError(f"torch is installed but does not start:\n{text}")
    return re.sub(" +", " ", text.strip())


def state(root: Path, wanted: str) -> str:
    """A hash of all that decides what the environment holds; its folder too, for its scripts name it."""
    digest = hashlib.sha256(f"{root} {wanted}".encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((root / name).read_bytes())
    return digest.hexdigest()


def setup(root: Path, torch: str | None) -> None:
    """Bring `.venv` to the state that pyproject.toml and constraints.txt ask for.

    Args:
        torch: "cpu", "cuda", or None: what was asked for last time, else what the machine's hardware suggests.
    """
    venv = root / ".venv"
    python = str(venv / ("Scripts" if os.name == "nt" else "bin") / "python")
    stamp = venv / STAMP
    last = json.loads(stamp.read_text()) if stamp.is_file() else {}
    wanted = torch or last.get("wanted") or ("cuda" if has_gpu() else "cpu")
    works = Path(python).exists() and output([python, "-c", "import pip"])[0] == 0
    if works and last.get("state") == state(root, wanted):
        say(f".venv is up to date ({last['torch']})")
        return
    if last:  # a set-up that is killed from here on must start again
        stamp.unlink()
    if not works:
        base = find_python()
        say(f"Making .venv with {base} ...")
        call([base, "-m", "venv", "--clear", str(venv)])
    install_torch(python, pinned(root / "constraints.txt", "torch"), wanted)
    say("Installing Penchant and its development tools ...")
    constraints = str(root / "constraints.txt")
    call([python, "-m", "pip", "install", "-qq", "-c", constraints, "-e", f"{root}[dev]"])
    described = describe_torch(python)
    say(described)
    stamp.write_text(json.dumps({"state": state(root, wanted), "wanted": wanted, "torch": described}) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description="Make .venv with Penchant and its development tools.")
    parser.add_argument(
        "--torch", choices=["cpu", "cuda"], help="which build of torch; without it, cuda where an NVIDIA GPU is found"
    )
    try:
        setup(ROOT, parser.parse_args().torch)
    except SetupError as error:
        sys.stderr.write(f"make setup: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

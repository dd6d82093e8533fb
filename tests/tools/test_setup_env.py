"""The set-up: which torch it takes, when it refuses, and that nothing is done twice. No package is installed here."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tools import lock, setup_env

ROOT = Path(__file__).parents[2]


class Machine:
    """Stands in for pip and for starting programs; keeps what was asked of it.

    Args:
        index: torch versions that the configured package indexes offer.
        cpu_index: those of the CPU index; empty = it cannot be reached.
    """

    def __init__(self, index: list[str], cpu_index: list[str] | None = None, installed: str = "") -> None:
        self.index, self.cpu_index, self.installed = index, cpu_index or [], installed
        self.asked: list[str] = []
        self.installs: list[list[str]] = []

    def output(self, command: list[str]) -> tuple[int, str]:
        line = " ".join(command)
        if "index versions torch" in line:
            self.asked.append(line)
            versions = self.cpu_index if setup_env.CPU_INDEX in line else self.index
            return (0, f"torch\nAvailable versions: {', '.join(versions)}\n") if versions else (1, "no route to host")
        if "importlib.metadata" in line:
            return (0, self.installed) if self.installed else (1, "not installed")
        return 0, "torch 2.13.0+cpu: CPU build, 2 threads"

    def call(self, command: list[str]) -> None:
        if "venv" in command:
            python = Path(command[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True, exist_ok=True)
            python.touch()
        self.installs.append(command)


def on(machine: Machine, patch: pytest.MonkeyPatch) -> Machine:
    patch.setattr(setup_env, "output", machine.output)
    patch.setattr(setup_env, "call", machine.call)
    patch.setattr(setup_env, "has_gpu", lambda: False)
    patch.setattr(setup_env, "find_python", lambda: "python3")
    return machine


@pytest.mark.parametrize(
    ("versions", "wanted", "platform", "build"),
    [
        (["2.15.0", "2.13.0+cpu", "2.13.0"], "cpu", "linux", "2.13.0+cpu"),
        (["2.15.0+cpu", "2.13.0"], "cpu", "linux", None),
        (["2.13.0"], "cpu", "darwin", "2.13.0"),
        (["2.13.0+cu130"], "cpu", "win32", None),
        (["2.13.0+cpu", "2.13.0"], "cuda", "linux", "2.13.0"),
        (["2.13.0+cu130", "2.13.0+cpu"], "cuda", "linux", "2.13.0+cu130"),
        (["2.13.0+cpu"], "cuda", "linux", None),
        ([], "cpu", "linux", None),
    ],
)
def test_the_wanted_build_of_the_pinned_version_is_chosen(
    versions: list[str], wanted: str, platform: str, build: str | None
) -> None:
    assert setup_env.choose_build(versions, "2.13.0", wanted, platform) == build


def test_a_cpu_build_on_the_configured_indexes_is_taken_without_asking_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = on(Machine(["2.13.0+cpu", "2.13.0"]), monkeypatch)
    setup_env.install_torch("python", "2.13.0", "cpu", "linux")
    assert machine.installs[0][-1] == "torch==2.13.0+cpu"
    assert len(machine.asked) == 1


def test_the_cpu_index_is_asked_where_the_configured_ones_have_only_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = on(Machine(["2.13.0"], cpu_index=["2.13.0+cpu"]), monkeypatch)
    setup_env.install_torch("python", "2.13.0", "cpu", "linux")
    assert machine.installs[0][-1] == "torch==2.13.0+cpu"
    assert setup_env.CPU_INDEX in machine.installs[0]


def test_a_cuda_build_is_refused_unasked_and_both_ways_out_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = on(Machine(["2.13.0"]), monkeypatch)
    with pytest.raises(setup_env.SetupError, match=r"(?s)no CPU build.*TORCH=cuda.*PIP_FIND_LINKS"):
        setup_env.install_torch("python", "2.13.0", "cpu", "linux")
    assert machine.installs == []


def test_a_cuda_build_is_taken_when_asked_even_beside_a_cpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = on(Machine(["2.13.0+cpu", "2.13.0"], installed="2.13.0+cpu"), monkeypatch)
    setup_env.install_torch("python", "2.13.0", "cuda", "linux")
    assert machine.installs[0][-1] == "torch===2.13.0"


def test_an_unreachable_index_is_reported_as_such_with_pips_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    on(Machine([]), monkeypatch)
    with pytest.raises(setup_env.SetupError, match=r"(?s)Is a package index reachable.*no route to host"):
        setup_env.install_torch("python", "2.13.0", "cpu", "linux")


def test_a_fitting_torch_that_is_installed_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = on(Machine([], installed="2.13.0+cpu"), monkeypatch)
    setup_env.install_torch("python", "2.13.0", "cpu", "linux")
    assert machine.installs == machine.asked == []


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "constraints.txt").write_text("# pins\ntorch==2.13.0\n")
    return tmp_path


def test_a_second_set_up_does_nothing_until_the_pins_change(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = on(Machine(["2.13.0+cpu"], cpu_index=["2.13.0+cpu"]), monkeypatch)
    setup_env.setup(project, "cpu")
    done = len(machine.installs)
    setup_env.setup(project, None)
    assert len(machine.installs) == done == 3  # the environment, torch, the rest
    (project / "constraints.txt").write_text("torch==2.13.0\nnumpy==2.4.6\n")
    setup_env.setup(project, None)
    assert len(machine.installs) > done


def test_a_set_up_that_was_cut_short_starts_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = on(Machine(["2.13.0+cpu"], cpu_index=["2.13.0+cpu"]), monkeypatch)

    def cut(command: list[str]) -> None:
        machine.call(command)
        if any("[dev]" in part for part in command):
            raise KeyboardInterrupt

    monkeypatch.setattr(setup_env, "call", cut)
    with pytest.raises(KeyboardInterrupt):
        setup_env.setup(project, "cpu")
    monkeypatch.setattr(setup_env, "call", machine.call)
    before = len(machine.installs)
    setup_env.setup(project, None)
    assert len(machine.installs) > before


def test_a_choice_of_torch_is_remembered(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = on(Machine(["2.13.0"]), monkeypatch)
    setup_env.setup(project, "cuda")
    before = len(machine.installs)
    setup_env.setup(project, None)
    assert len(machine.installs) == before


def test_a_python_that_is_too_old_is_named_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup_env, "OLDEST", (99, 0))
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    with pytest.raises(setup_env.SetupError, match=rf"(?s)99\.0 or newer.*is {running}"):
        setup_env.find_python()


def test_constraints_without_torch_say_how_to_restore_them(tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("numpy==2.4.6\n")
    with pytest.raises(setup_env.SetupError, match="make lock"):
        setup_env.pinned(tmp_path / "constraints.txt", "torch")


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def test_every_direct_dependency_is_pinned_inside_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        needed = Requirement(line)
        assert needed.specifier.contains(pins()[needed.name]), f"constraints.txt has {pins()[needed.name]} for {line}"


def test_torch_is_pinned_without_a_build_tag() -> None:
    assert "+" not in pins()["torch"]


def test_the_lock_follows_dependencies_to_the_end_and_leaves_out_the_rest() -> None:
    found = lock.closure("rich", ())
    assert set(found) == {"markdown-it-py", "mdurl", "pygments"}


def test_the_tests_of_continuous_integration_are_make_test() -> None:
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("make test")
    plan = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    steps = [
        plan.index(step) for step in ("setup_env.py", "ruff check", "ruff format --check", "basedpyright", "pytest")
    ]
    assert steps == sorted(steps)


def test_make_alone_lists_every_target() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    phony = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY:"))
    for target in phony.split()[1:]:
        assert f"make {target} " in listed

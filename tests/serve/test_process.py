"""The server as its own process, and what its modules may import."""

from __future__ import annotations

import ast
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import torch
import uvicorn
from fastapi.testclient import TestClient

import penchant
from penchant.errors import BundleError, ConfigError
from penchant.serve.app import serve

HEAVY = ("pandas", "matplotlib", "tensorboard", "transformers", "duckdb", "tyro")

SERVER = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
from penchant.serve.app import serve
serve(sys.argv[1], port=0, events=sys.argv[2])
print("ended", [m for m in sys.argv[3:] if m in sys.modules])
"""


def test_a_real_server_starts_answers_learns_and_ends(bundle_path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-c", SERVER, str(bundle_path), str(tmp_path / "events.sqlite"), *HEAVY]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert server.stdout is not None
        first = server.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", first)
        assert found, first
        with httpx.Client(base_url=found[0], transport=httpx.HTTPTransport(retries=20), timeout=30) as client:
            assert client.get("/healthz").json()["status"] == "ok"
            before = client.post("/v1/recommend", json={"user_id": "u1"}).json()
            last = before["items"][-1]["id"]
            events = {"events": [{"user_id": "u1", "item_id": last, "event_id": "e-1"}]}
            assert client.post("/v1/events", json=events).status_code == 201
            after = client.post("/v1/recommend", json={"user_id": "u1"}).json()
            assert after["items"] != before["items"]
            assert client.post("/v1/history", json={"user_id": "u1"}).json()["history"][0]["id"] == last
        server.send_signal(signal.SIGTERM)
        rest, _ = server.communicate(timeout=30)
        assert server.returncode == 0, rest
        assert rest.endswith("ended []\n")
        assert "Traceback" not in rest
        assert "u1" not in rest
    finally:
        server.kill()
        server.wait()


def test_a_taken_port_is_refused_with_a_way_out(bundle_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="--port"):
            serve(bundle_path, port=taken.getsockname()[1])


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70_000), ("no-such-host.invalid", 8000)])
def test_an_impossible_address_is_refused(bundle_path: Path, host: str, port: int) -> None:
    with pytest.raises(ConfigError, match=host):
        serve(bundle_path, host=host, port=port)


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_listening_beyond_this_machine_is_warned_of(
    host: str,
    warned: bool,
    bundle_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: None)
    threads = torch.get_num_threads()
    try:
        serve(bundle_path, host=host, port=0, events=tmp_path / "log")
    finally:
        torch.set_num_threads(threads)
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert any("no login" in w for w in warnings) == warned


@pytest.mark.parametrize(
    ("host", "allowed", "asked", "status"),
    [
        ("127.0.0.1", (), "localhost:9000", 200),
        ("127.0.0.1", (), "LOCALHOST", 200),
        ("127.0.0.1", (), "127.0.0.1:8000", 200),
        ("127.0.0.1", (), "[::1]:8000", 200),
        ("127.0.0.2", (), "127.0.0.2:8000", 200),
        ("127.0.0.1", (), "evil.example:8000", 403),
        ("127.0.0.1", (), "localhost.evil.example", 403),
        ("127.0.0.1", ("Shop.example:443", "b.example"), "shop.example", 200),
        ("127.0.0.1", ("shop.example",), "evil.example", 403),
        ("0.0.0.0", (), "any.example", 200),
        ("0.0.0.0", ("shop.example",), "evil.example", 403),
    ],
)
def test_a_server_for_this_machine_answers_to_its_own_names_alone(
    host: str,
    allowed: tuple[str, ...],
    asked: str,
    status: int,
    bundle_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A page elsewhere, whose name leads to this machine by now, asks for that name."""
    servers: list[uvicorn.Server] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, **_: servers.append(server))
    threads = torch.get_num_threads()
    try:
        serve(bundle_path, host=host, port=0, events=tmp_path / "log", allow_hosts=allowed)
    finally:
        torch.set_num_threads(threads)
    with TestClient(servers[0].config.app) as client:  # type: ignore[arg-type]
        answer = client.get("/healthz", headers={"Host": asked})
    assert answer.status_code == status
    if status == 403:
        (error,) = answer.json()["errors"]
        assert (error["field"], error["value"]) == ("host", asked)
        assert "--allow-host" in error["fix"]


def test_a_bundle_may_be_served_from_inside(bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log lies beside it all the same."""
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: None)
    threads = torch.get_num_threads()
    copied = shutil.copytree(bundle_path, tmp_path / "mine")
    monkeypatch.chdir(copied)
    try:
        serve(".", port=0)
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "mine.events.sqlite").is_file()


def test_a_missing_bundle_is_refused_before_anything_is_served(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle here"):
        serve(tmp_path / "nothing", port=0)
    assert not list(tmp_path.iterdir())


PACKAGE = Path(penchant.__file__).parent


def imports_of(module: str) -> set[str]:
    """Every module that importing `module` names, from its source and those of the packages around it."""
    path = PACKAGE.parent.joinpath(*module.split("."))
    source = next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)
    if source is None or module == "penchant":  # another package's; ours imports inside its functions alone
        return set()
    named = {module.rsplit(".", 1)[0]} if "." in module else set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            named |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return named


def reached_from(start: set[str]) -> dict[str, str]:
    """Every module reached through penchant's own, and who named it first."""
    reached = dict.fromkeys(start, "")
    waiting = list(start)
    while waiting:
        module = waiting.pop()
        for named in imports_of(module) if module.split(".")[0] == "penchant" else ():
            if named not in reached:
                reached[named] = module
                waiting.append(named)
    return reached


def modules_under(*folders: str) -> set[str]:
    files = [file for folder in folders for file in (PACKAGE / folder).rglob("*.py") if file.stem != "__init__"]
    return {".".join(("penchant", *file.relative_to(PACKAGE).with_suffix("").parts)) for file in files}


def test_nothing_that_serves_reaches_an_objective_or_training() -> None:
    reached = reached_from(modules_under("serve", "funnel", "index"))
    assert "penchant.serve.bundle" in reached
    assert "penchant.funnel.stages" in reached
    for module, by in reached.items():
        assert ".objective" not in module, f"{by} reaches {module}"
        assert not module.startswith(("penchant.training", "penchant.recipes", "penchant.evaluation")), (
            f"{by} reaches {module}"
        )


def test_the_server_names_no_heavy_package() -> None:
    named = reached_from({"penchant.serve.app"})
    assert "penchant.serve.bundle" in named
    assert not [module for module in named if module.split(".")[0] in HEAVY]

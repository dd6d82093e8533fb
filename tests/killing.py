"""Commands of Penchant in processes that can be killed, or stopped for a while, at any moment of their work.

One process imports everything once; each command is a fork of it, which costs milliseconds instead of seconds. A kill
comes after so many seconds of work, or right before the n-th change of a file: that is how the moments between a write
and its rename are met, which no clock would find. Changes are those under the watched folder and in the temporary
directory; work begins with the first.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")
MODULES = (
    *(f"penchant.{name}" for name in ("cli.data", "cli.train", "cli.funnel", "cli.serve", "cli.results")),
    *("penchant.encoders.encode", "penchant.data.sources.table"),
    "torch._dynamo",  # what an optimizer's first step imports
    *(f"transformers.models.{name}" for name in ("auto", "bert.modeling_bert", "vit.modeling_vit")),
    *("transformers.models.vit.image_processing_pil_vit", "transformers.models.auto.tokenization_auto"),
)
"""What the commands would import one by one."""


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: its exit status; -9 if it was killed, None if it was stopped and still lives.
        seconds: from its first change of a file to its end.
        changes: of files that it made or was about to make.
        said: what it wrote to its output and error.
    """

    process: int
    status: int | None
    seconds: float
    changes: int
    said: str


class Commands:
    """Runs commands in a folder of their own, with their own cache and temporary directory.

    Args:
        home: commands are run in it.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.temporary = home / "temporary"
        self.temporary.mkdir(parents=True)
        root = Path(__file__).parents[1]
        paths = os.pathsep.join([str(root), str(root / "src")])
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TMPDIR": str(self.temporary)}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command = [sys.executable, "-m", "tests.killing"]
        self._driver = subprocess.Popen(command, cwd=home, env=environment, **pipes)

    def run(
        self,
        *args: object,
        watched: Path,
        cache: Path | None = None,
        after: float | None = None,
        at: int | None = None,
        stop: bool = False,
    ) -> Ended:
        """Run a command to its end, or until it is killed.

        Args:
            watched: folder whose files' changes are counted, beside the temporary directory's.
            cache: the command's PENCHANT_CACHE; one for all commands if None.
            after: kill it so many seconds after its first change of a file.
            at: kill it right before its n-th change; or, with `stop`, stop it there and return.
        """
        asked = {"watched": [str(watched), str(self.temporary)], "after": after, "at": at, "stop": stop}
        return self._ask({"args": [str(a) for a in args], "cache": str(cache or self.home / "cache"), **asked})

    def go_on(self, stopped: Ended) -> Ended:
        """Let a stopped command run to its end."""
        return self._ask({"go_on": stopped.process})

    def close(self) -> None:
        self._driver.communicate()

    def _ask(self, what: dict[str, Any]) -> Ended:
        assert self._driver.stdin is not None
        assert self._driver.stdout is not None
        self._driver.stdin.write(json.dumps(what) + "\n")
        self._driver.stdin.flush()
        answer = self._driver.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process that starts the commands ended with status {self._driver.wait()}")
        return Ended(**json.loads(answer))


def _serve() -> None:
    from importlib import import_module

    for name in MODULES:
        import_module(name)
    from penchant.encoders.encode import encode_items

    assert encode_items.__kwdefaults__ is not None
    encode_items.__kwdefaults__["flush_s"] = 0.0  # shards after every batch, as hours of work would leave them
    of_process: dict[int, list[Path]] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if "go_on" in asked:
            process = asked["go_on"]
            os.kill(process, signal.SIGCONT)
        else:
            files = [Path(f"{len(of_process)}.{name}") for name in ("said", "changes")]
            for file in files:
                file.touch()  # by us: a kill may come before the child does anything
            process = os.fork() or _child(asked, *files)
            of_process[process] = files
        said, counted = of_process[process]
        status, seconds = _wait(process, asked.get("after"), counted)
        ended = Ended(process, status, seconds, counted.stat().st_size, said.read_text())
        sys.stdout.write(json.dumps(ended.__dict__) + "\n")
        sys.stdout.flush()


def _wait(process: int, after: float | None, counted: Path) -> tuple[int | None, float]:
    """Wait for a process to end or stop, and kill it when its time has come; its status and seconds of work."""
    began = None
    while True:
        done, status = os.waitpid(process, os.WNOHANG | os.WUNTRACED)
        now = time.monotonic()
        began = now if began is None and counted.stat().st_size else began
        if done:
            return None if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status), now - (began or now)
        if after is not None and began is not None and now - began >= after:
            os.kill(process, signal.SIGKILL)
            after = None
        time.sleep(0.001)


def _child(asked: dict[str, Any], said: Path, changes: Path) -> int:
    from penchant.cli.main import main

    status = 1
    try:
        output = os.open(said, os.O_WRONLY | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ["PENCHANT_CACHE"] = asked["cache"]
        _watch(asked["watched"], changes, asked["at"], signal.SIGSTOP if asked["stop"] else signal.SIGKILL)
        status = main(asked["args"])
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _watch(folders: list[str], changes: Path, at: int | None, how: signal.Signals) -> None:
    seen = 0
    counted = os.open(changes, os.O_WRONLY)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in CHANGES or not _changes(event, args, tuple(folders)):
            return
        seen += 1
        os.write(counted, b".")
        if seen == at:
            os.kill(os.getpid(), how)

    sys.addaudithook(hook)


def _changes(event: str, args: tuple[Any, ...], folders: tuple[str, ...]) -> bool:
    if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return False
    if event in ("os.remove", "os.rmdir") and args[1] != -1:
        return True  # within a shutil.rmtree: the path is relative
    path = args[0]
    return not isinstance(path, int) and os.path.abspath(os.fsdecode(path)).startswith(folders)  # noqa: PTH100


if __name__ == "__main__":
    _serve()

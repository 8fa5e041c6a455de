"""Asks rattler, which resolves and fetches packages of conda, in a process of its own.

The library is an extra of this package. It has threads and much memory, which no kernel needs to
keep, so it is never imported here; what it may know of the environment is listed. It is told the
user's channels, and no configuration of conda, mamba or pixi is read.
"""

from __future__ import annotations

import functools
import importlib.machinery
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from sandbox_kernel.errors import HostLacks, ImageError, shown
from sandbox_kernel.image.environments import places
from sandbox_kernel.image.environments.conda.configuration import Channel

LIBRARIES = {"rattler": "py-rattler", "yaml": "PyYAML"}
EXTRA = "sandbox-kernel[conda]"
SECONDS = 3600.0
"""To fetch a large environment over a slow line."""
MOST_ANSWER = 64 << 20
LONGEST_REASON = 900
KEPT = re.compile(
    r"HOME|TMPDIR|XDG_(CACHE|CONFIG|DATA)_HOME|NETRC|SSL_CERT_(FILE|DIR)|RATTLER_AUTH_FILE"
    r"|(?i:https?|all|no)_(?i:proxy)"
)
_START = (
    "import json, sys; sys.path += json.loads(sys.argv[1]); "
    "from sandbox_kernel.image.environments.conda import rattler_process; rattler_process.main()"
)


def demand(reference: str) -> None:
    """Raises HostLacks when the extra is not installed."""
    missing = [name for module, name in LIBRARIES.items() if not _place_of(module)]
    if missing:
        raise HostLacks(
            f"make `{shown(reference)}`: `{'`, `'.join(missing)}` is not installed: run "
            f"`{sys.executable} -m pip install '{EXTRA}'`"
        )


_found: dict[str, str] = {}


def _place_of(module: str) -> str:
    """The folder that a module is found in; "" when it is not there. It is not imported.

    Not looked for in the working folder, which is a notebook's. What is missing may come.
    """
    if module not in _found:
        here = os.getcwd()
        places = [path for path in sys.path if os.path.isabs(path) and path != here]
        found = importlib.machinery.PathFinder.find_spec(module, places)
        if found is None or found.origin is None:
            return ""
        _found[module] = os.path.dirname(os.path.dirname(found.origin))
    return _found[module]


def solve(
    specs: Sequence[str],
    channels: Sequence[Channel],
    *,
    subdirs: Sequence[str],
    virtual_packages: Sequence[tuple[str, str, str]],
    cutoff: float | None,
    doing: str,
) -> list[Mapping[str, Any]]:
    """The packages that fit together. `cutoff`: a time that none may be newer than.

    Raises ImageError with the reason, `doing` begins its message; HostLacks.
    """
    order = {
        "verb": "solve",
        "specs": list(specs),
        "channels": [list(channel) for channel in channels],
        "subdirs": list(subdirs),
        "virtual_packages": [list(each) for each in virtual_packages],
        "cutoff": cutoff,
        "cache": places.folder("channels"),
    }
    packages: list[Mapping[str, Any]] = _ask(order, channels, doing)["packages"]
    return packages


def fetch(
    files: Sequence[tuple[str, str, int]], channels: Sequence[Channel], *, doing: str
) -> None:
    """Fetch from each address into the file; of so many bytes at most. Raises as `solve`.

    What came is not looked at: whoever reads it compares the hash.
    """
    _ask({"verb": "fetch", "files": [list(each) for each in files]}, channels, doing)


def _ask(order: Mapping[str, Any], channels: Sequence[Channel], doing: str) -> dict[str, Any]:
    argv = [sys.executable, "-I", "-c", _START, json.dumps(_paths())]
    with tempfile.TemporaryDirectory(prefix="sandbox-kernel-conda-") as neutral:
        try:
            done = subprocess.run(
                argv,
                input=json.dumps(order).encode(),
                capture_output=True,
                env=_environment(),
                cwd=neutral,
                timeout=SECONDS,
                umask=0o077,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ImageError(
                f"{doing}: it did not end within {SECONDS:g} s: see whether the channels answer"
            ) from error
    try:
        answer = json.loads(done.stdout[:MOST_ANSWER])
    except ValueError as error:
        told = shown(done.stderr.decode("utf-8", "replace")[-LONGEST_REASON:])
        raise HostLacks(
            f"{doing}: rattler ended with status {done.returncode}: {told}: run "
            f"`{sys.executable} -m pip install --upgrade '{EXTRA}'`"
        ) from error
    if "error" in answer:
        raise ImageError(f"{doing}: {_reason(answer['error'], channels)}")
    return dict(answer)


@functools.cache
def _paths() -> list[str]:
    """Where this package and the libraries lie, however they were installed."""
    package = __file__
    for _ in __name__.split("."):
        package = os.path.dirname(package)
    return list(dict.fromkeys([package, *map(_place_of, ("rattler", "yaml", "msgspec"))]))


def _environment() -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if KEPT.fullmatch(name)}
    return {**found, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


def _reason(text: str, channels: Sequence[Channel]) -> str:
    """What rattler says, in one line; addresses may hold a token, so names stand for them."""
    for channel in channels:
        text = text.replace(channel.address, channel.name)
    told = re.sub(r"[\s│├└─╰]+", " ", text).strip()[:LONGEST_REASON].rstrip(". ")
    told = "".join(c if c.isprintable() else "�" for c in told) or "rattler said nothing"
    if "error sending request" in text or "dns error" in text:
        return f"{told}: a channel was not reached: see the line, the proxy and `[conda.channels]`"
    if "could not find subdir" in text or "404" in text:
        return f"{told}: see whether its address in `[conda.channels]` is one of a channel"
    if "No candidates were found" in text:
        return f"{told}: see how it is spelled, and which channel has it for this machine"
    return f"{told}: change the file so that the packages fit together"

"""`kernel_info_reply`: known before the inside is, and completed by what the inside says."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from typing import Any

import sandbox_kernel

from .contents import KernelInfo
from .voice import PROTOCOL

FEATURES = ("debugger", "kernel subshells")
"""Those that the relay carries. Others of the inside are not claimed."""


def first() -> dict[str, Any]:
    """The answer while the inside starts: this Python, which the image `host` has too."""
    version = platform.python_version()
    return {
        "status": "ok",
        "protocol_version": PROTOCOL,
        "implementation": "sandbox-kernel",
        "implementation_version": sandbox_kernel.__version__,
        "language_info": {
            "name": "python",
            "version": version,
            "mimetype": "text/x-python",
            "codemirror_mode": {"name": "ipython", "version": sys.version_info[0]},
            "pygments_lexer": "ipython3",
            "nbconvert_exporter": "python",
            "file_extension": ".py",
        },
        "banner": f"Python {version} in a container (sandbox-kernel {sandbox_kernel.__version__})",
        "help_links": [
            {"text": "Python", "url": f"https://docs.python.org/{version.rpartition('.')[0]}"},
            {"text": "IPython", "url": "https://ipython.readthedocs.io/"},
        ],
        **_features(_here()),
    }


def merged(known: dict[str, Any], inside: KernelInfo) -> dict[str, Any]:
    """What the inside knows better: its language, and what it can do."""
    found = [name for name in FEATURES if name in inside.supported_features]
    if inside.debugger and "debugger" not in found:  # ipykernel 6
        found.append("debugger")
    version = str(inside.language_info.get("version", "")) or known["language_info"]["version"]
    language = {**known["language_info"], "version": version[:64]}
    return {**known, "language_info": language, **_features(found)}


def without_debugger(known: dict[str, Any]) -> dict[str, Any]:
    """Of a kernel in which no port can be opened, which its debugger needs."""
    return {**known, **_features([n for n in known["supported_features"] if n != "debugger"])}


def _features(names: list[str]) -> dict[str, Any]:
    return {"supported_features": names, "debugger": "debugger" in names}


def _here() -> list[str]:
    """A front end asks once, at once, so the first answer has to be right for the image `host`."""
    found = []
    if importlib.util.find_spec("debugpy"):
        found.append("debugger")
    ipykernel = importlib.util.find_spec("ipykernel")
    for folder in (ipykernel and ipykernel.submodule_search_locations) or ():
        if os.path.exists(f"{folder}/subshell.py"):
            found.append("kernel subshells")
    return found

"""Runs `uv`, the resolver and installer of wheels: found at fixed places, in a fixed environment.

Never by PATH, never in the notebook's folder: a project's `uv.toml` or `pyproject.toml` has no say.
What the user set for uv (an index, a cache, certificates, a proxy) holds. Only wheels are taken:
building a source distribution would run its code on this machine.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence

from sandbox_kernel.errors import HostLacks, ImageError
from sandbox_kernel.image.environments.python import Python

PLACES = ("/usr/local/bin/uv", "/usr/bin/uv", "/opt/homebrew/bin/uv")
OF_THE_USER = (".local/bin/uv", ".cargo/bin/uv")
SECONDS = 900.0
"""A large environment over a slow line; uv itself gives up a connection that is silent earlier."""
GLIBC_PLATFORMS = (17, 28, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40)
"""Minor versions of glibc that `--python-platform` knows as `manylinux_2_N`."""
KEPT = re.compile(
    r"HOME|TMPDIR|XDG_(CACHE|CONFIG|DATA)_HOME|NETRC|SSL_CERT_(FILE|DIR)"
    r"|(?i:https?|all|no)_(?i:proxy)"
    r"|UV_(CACHE_DIR|DEFAULT_INDEX|INDEX|INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|INDEX_STRATEGY"
    r"|INDEX_\w+_(USERNAME|PASSWORD)|KEYRING_PROVIDER|NATIVE_TLS|SYSTEM_CERTS|OFFLINE"
    r"|HTTP_TIMEOUT|HTTP_RETRIES|EXCLUDE_NEWER|INSECURE_HOST|CONCURRENT_\w+|PRERELEASE"
    r"|RESOLUTION|CONFIG_FILE)"
)
MOST_LINES = 12
LONGEST_REASON = 600


@functools.cache
def program() -> str:
    """The absolute path of uv. Raises HostLacks when it is at none of the places."""
    scripts = dict.fromkeys((os.path.dirname(sys.executable), sysconfig.get_path("scripts")))
    home = os.path.expanduser("~")
    own = [os.path.join(home, place) for place in OF_THE_USER] if os.path.isabs(home) else []
    places = [*(os.path.join(folder, "uv") for folder in scripts), *own, *PLACES]
    for place in places:
        if os.path.isfile(place) and os.access(place, os.X_OK):
            return place
    raise HostLacks(
        f"resolve packages: `uv` is not at `{'`, `'.join(places)}`: "
        f"run `{sys.executable} -m pip install uv`"
    )


def environment() -> dict[str, str]:
    """What uv gets to know of the user's environment; nothing that would let it build or run."""
    found = {name: value for name, value in os.environ.items() if KEPT.fullmatch(name)}
    return {**found, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "UV_NO_PROGRESS": "1"}


def configuration() -> list[str]:
    """The user's own `uv.toml`, and no other."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".config")
    path = os.path.join(base, "uv", "uv.toml")
    if os.environ.get("UV_CONFIG_FILE") or not os.path.isabs(path):
        return []
    return ["--config-file", path] if os.path.isfile(path) else ["--no-config"]


def target(python: Python) -> list[str]:
    """The options that make uv choose for this Python and not for the one that runs us."""
    if python.libc == "musl":
        platform = f"{python.machine}-unknown-linux-musl"
    else:
        fitting = [minor for minor in GLIBC_PLATFORMS if minor <= python.libc_version[1]]
        platform = f"{python.machine}-manylinux_2_{max(fitting, default=17)}"
    return ["--python", sys.executable, "--no-python-downloads", "--python-version", python.minor,
            "--python-platform", platform]  # fmt: skip


def run(words: Sequence[str], doing: str, *, standard_input: str = "") -> str:
    """What uv printed. Raises ImageError with its reason; `doing` begins the message."""
    argv = [program(), *words, "--color", "never", "--quiet", *configuration()]
    with tempfile.TemporaryDirectory(prefix="sandbox-kernel-uv-") as neutral:
        try:
            done = subprocess.run(
                argv,
                input=standard_input,
                capture_output=True,
                text=True,
                errors="replace",
                env=environment(),
                cwd=neutral,
                timeout=SECONDS,
                umask=0o022,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ImageError(
                f"{doing}: uv did not end within {SECONDS:g} s: see whether the index answers"
            ) from None
    if done.returncode:
        raise ImageError(f"{doing}: {_reason(done.stderr)}")
    return done.stdout


def _reason(text: str) -> str:
    """What uv says, in one line, and what to do about it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()][:MOST_LINES]
    told = " ".join(line.removeprefix("error: ").removeprefix("cause: ") for line in lines)
    told = re.sub(r"\s*hint: .*", "", told)[:LONGEST_REASON].rstrip(". ")
    told = "".join(c if c.isprintable() else "�" for c in told) or "uv failed and said nothing"
    if "no usable wheels" in text or "building from source is disabled" in text:
        return (
            f"{told}: there is only its source for this Python, and building that would run its "
            "code on this machine: choose a version that has a wheel, or build an image with "
            "`build:PATH`"
        )
    if "was not found in the package registry" in text:
        return f"{told}: see how it is spelled, and which index uv is set to"
    if "dns error" in text or "Connection refused" in text or "network" in text.lower():
        return f"{told}: the index was not reached: see the line, proxy and UV_DEFAULT_INDEX"
    return f"{told}: change the requirements so that they fit together"

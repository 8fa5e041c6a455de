"""From requirements to a lock: uv resolves for the Python of the image, the best wheel is chosen.

What was resolved once is kept under what was asked for, so that the same request gives the same
wheels until somebody asks for new ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import tomllib
from collections.abc import Mapping
from typing import Any

from sandbox_kernel.errors import ImageError, shown
from sandbox_kernel.image.environments import lock as locks
from sandbox_kernel.image.environments import places, tags, uv
from sandbox_kernel.image.environments.declared import Declared, normalised
from sandbox_kernel.image.environments.lock import Lock, Wheel
from sandbox_kernel.image.environments.python import Python


def lock(declared: Declared, python: Python, *, fresh: bool = False) -> Lock:
    """The lock of a declaration: the named one, else the one that is kept, else a new one.

    `fresh` resolves anew and keeps that. Raises ImageError, HostLacks.
    """
    _check_python(declared, python)
    if declared.lock is not None and not fresh:
        found = locks.find(declared.lock, declared.reference)
        found.check(python, declared.reference)
        return found
    kept = os.path.join(places.folder("locks"), f"asked-{key(declared, python)}.json")
    data = None if fresh else places.read(kept, locks.MOST_BYTES)
    if data is not None:
        return locks.decode(data, declared.reference)
    made = resolve(declared, python)
    places.write(kept, locks.encode(made))
    locks.keep(made)
    return made


def resolve(declared: Declared, python: Python) -> Lock:
    """Ask uv now. Raises ImageError with its reason, HostLacks without uv."""
    wheels: tuple[Wheel, ...] = ()
    if declared.requirements:
        document = _compile(declared, python)
        packages = document.get("packages", [])
        wheels = tuple(
            sorted((_wheel(each, declared, python) for each in packages), key=lambda w: w.name)
        )
    return Lock(python.minor, python.libc, python.machine, wheels, declared.requirements)


def _compile(declared: Declared, python: Python) -> dict[str, Any]:
    doing = f"resolve `{shown(declared.reference)}` for {python.shown}"
    words = ["pip", "compile", "-", "--format", "pylock.toml", "--no-build", "--no-header",
             "--no-annotate", *uv.target(python)]  # fmt: skip
    if declared.exclude_newer:
        words += ["--exclude-newer", declared.exclude_newer]
    with tempfile.TemporaryDirectory(prefix="sandbox-kernel-uv-") as place:
        if declared.constraints:
            path = os.path.join(place, "constraints.txt")
            with open(path, "w", encoding="utf-8") as file:
                file.write("\n".join(declared.constraints) + "\n")
            words += ["--constraints", path]
        text = uv.run(words, doing, standard_input="\n".join(declared.requirements) + "\n")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ImageError(f"{doing}: what uv said is no TOML: {shown(error)}: update uv") from None


def _wheel(package: Mapping[str, Any], declared: Declared, python: Python) -> Wheel:
    """The best wheel of one package of a `pylock.toml` (PEP 751)."""
    name = normalised(str(package.get("name", "")))
    doing = f"choose a wheel of `{shown(name)}` for {python.shown}"
    wanted = declared.hashes.get(name)
    fitting: dict[str, tuple[str, int]] = {}
    for wheel in package.get("wheels") or ():
        file = str(wheel.get("name") or str(wheel.get("url") or wheel.get("path")).split("/")[-1])
        file = file.partition("?")[0].partition("#")[0].replace("%2B", "+").replace("%2b", "+")
        digits = str((wheel.get("hashes") or {}).get("sha256", ""))
        if digits and (wanted is None or digits in wanted):
            fitting[file] = digits, int(wheel.get("size") or 0)
    if declared.hashes and wanted is None:
        raise ImageError(f"{doing}: `{shown(declared.reference)}` has hashes, but none for it: "
                         "give a hash for each package, or for none")  # fmt: skip
    file = tags.best(python, fitting) or ""
    if not file:
        why = "no wheel with one of the given hashes fits" if wanted else "no wheel fits"
        mend = "choose another version of it"
        if not (fitting or wanted) and package.get("wheels"):
            why, mend = "uv says no sha256 of its wheels", "update uv, or ask an index with hashes"
        raise ImageError(f"{doing}: {why}: {mend}")
    digits, size = fitting[file]
    return Wheel(name, str(package.get("version", "")), file, digits, size)


def _check_python(declared: Declared, python: Python) -> None:
    """`requires-python`, by the minor version that the image has."""
    if declared.requires_python is None:
        return
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    doing = f"resolve `{shown(declared.reference)}`"
    try:
        allowed = SpecifierSet(declared.requires_python)
    except InvalidSpecifier:
        raise ImageError(f"{doing}: `requires-python = {shown(declared.requires_python)}` is no "
                         "specifier: write one such as `>=3.11`") from None  # fmt: skip
    # Which patch release it is does not stand in a name: the newest that there could be counts.
    if not any(allowed.contains(f"{python.minor}.{patch}") for patch in (0, 99)):
        raise ImageError(
            f"{doing}: it needs Python {shown(declared.requires_python)}, and the base has "
            f"{python.minor}: name another base, as in `packages: ... on python:3.12`"
        )


def key(declared: Declared, python: Python) -> str:
    """Of all that decides what is chosen, but for what the index has at the time."""
    hashes = {name: sorted(digits) for name, digits in declared.hashes.items()}
    asked = [declared.requirements, declared.constraints, hashes, declared.exclude_newer, python]
    indexes = {name: value for name, value in uv.environment().items() if "INDEX" in name}
    text = json.dumps([asked, indexes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]

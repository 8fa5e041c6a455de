"""Packages of conda as trees: each one linked once, by its hash, for all environments that have it.

What an installer does, without its scripts: `paths.json` says which files there are and which hold
the path that they were built for; modules of a package for any machine go to the site-packages of
the Python that is there, and its entry points become programs. A tree has the places of the image:
`opt/environment/lib/...`. All that a package says is checked before the first file gets a name, and
links are made last, so that nothing is ever written through one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from sandbox_kernel.errors import ImageError, shown
from sandbox_kernel.image.environments import places, wheels
from sandbox_kernel.image.environments.conda import archives, placeholders, rattler, resolving
from sandbox_kernel.image.environments.conda.archives import Content, Member, path_of
from sandbox_kernel.image.environments.conda.below import NO_ARCHITECTURE
from sandbox_kernel.image.environments.conda.lock import Lock, Package

PREFIX = wheels.PREFIX
FORM = "1"
"""Changes when the same package would give another tree."""
MOST_REWRITTEN = 256 << 20
"""Bytes of a file with a placeholder: it is read whole."""
RECORDS = "conda-meta"
SCRIPTS = ("pre-link", "post-link")
"""`bin/.NAME-post-link.sh` and the like, which an installer would run."""
_ENTRY_POINT = re.compile(r"\s*([\w.-]+)\s*=\s*([\w.]+)\s*:\s*([\w.]+)\s*")


def trees(lock: Lock, reference: str) -> list[str]:
    """The folder of each package's tree, in their order; those that are missing are made.

    Raises ImageError when a package can't be had, is not the one that the lock names, or is not as
    a package must be.
    """
    paths = [_path(package, lock) for package in lock.packages]
    if not [path for path in paths if not places.is_there(path)]:
        return paths
    with places.making() as partial:
        missing = {
            path: package
            for path, package in zip(paths, lock.packages, strict=True)
            if not os.path.isdir(path)
        }
        if missing:
            _make(missing, lock, partial, reference)
    return paths


def scripts(lock: Lock, found: Sequence[str]) -> list[str]:
    """Names of packages that have scripts which an installer would have run."""
    return [
        package.name
        for package, tree in zip(lock.packages, found, strict=True)
        if any(os.path.lexists(f"{tree}{PREFIX}/bin/.{package.name}-{kind}.sh") for kind in SCRIPTS)
    ]


def _path(package: Package, lock: Lock) -> str:
    site = lock.site_packages if package.subdir == NO_ARCHITECTURE else ""
    key = hashlib.sha256(f"{package.sha256} {site} {PREFIX} {FORM}".encode()).hexdigest()
    return os.path.join(places.folder("conda"), f"{package.name}-{package.version}-{key[:32]}")


def _make(missing: dict[str, Package], lock: Lock, partial: str, reference: str) -> None:
    """Fetch all of them at once, then link one after the other."""
    doing = f"fetch packages of `{shown(reference)}`"
    packages = list(missing.values())
    channels = resolving.channels_of((each.channel for each in packages), reference)
    address = {channel.name: channel.address for channel in channels}
    fetched = os.path.join(partial, "fetched")
    places.make(fetched)
    wanted = [
        (
            f"{address[each.channel]}/{each.subdir}/{quote(each.file, safe='!+')}",
            os.path.join(fetched, str(number)),
            each.size,
        )
        for number, each in enumerate(packages)
    ]
    rattler.fetch(wanted, channels, doing=doing)
    made = {}
    for (path, package), (_, archive, _) in zip(missing.items(), wanted, strict=True):
        tree = os.path.join(partial, os.path.basename(path))
        install(archive, package, lock.site_packages, tree)
        made[tree] = path
    places.settle(partial)
    for tree, path in made.items():
        places.publish(tree, path)


def install(archive: str, package: Package, site_packages: str, tree: str) -> None:
    """Make the tree of one package of its archive, beside which is room for its files.

    Raises ImageError; the tree is then not there, or is there in part.
    """
    stage = f"{archive}.files"
    places.make(stage)
    try:
        content = archives.unpack(archive, package, stage)
        link(content, package, site_packages, tree)
    except ImageError as error:
        raise ImageError(
            f"install `{shown(package.file)}` of channel `{shown(package.channel)}`: {error}: "
            "choose another version of it"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ImageError(f"install `{shown(package.file)}`: {error.strerror} in `{stage}`: make "
                         "room there") from error  # fmt: skip


class _Entry(NamedTuple):
    """One line of `paths.json`, with what the archive has for it."""

    member: Member
    placeholder: str
    mode: str


class _Plan(NamedTuple):
    """What a tree will have, by places below its prefix; all of it was checked."""

    entries: dict[str, _Entry]
    programs: dict[str, str]
    texts: dict[str, str]
    folders: set[str]


def link(content: Content, package: Package, site_packages: str, tree: str) -> None:
    """Make the tree of one package of what was unpacked, which is used up. Raises ImageError."""
    plan = _planned(content, package, site_packages)
    base = tree + PREFIX
    places.make(base)
    for place in plan.folders:
        places.make(f"{base}/{place}")
    for place, entry in plan.entries.items():
        if entry.member.source:
            _put(entry, f"{base}/{place}")
    for place, text in {**plan.texts, **plan.programs}.items():
        _write(f"{base}/{place}", text.encode(), executable=place in plan.programs)
    for place, entry in plan.entries.items():
        if not entry.member.source:
            places.make(os.path.dirname(f"{base}/{place}"))
            os.symlink(entry.member.target, f"{base}/{place}")


def _planned(content: Content, package: Package, site_packages: str) -> _Plan:
    """What a package says, if it is as it must be. Raises ImageError."""
    index = _document(content, archives.INDEX)
    named = tuple(str(index.get(key)) for key in ("name", "version", "build"))
    if named != (package.name, package.version, package.build):
        raise ImageError(f"it holds another package: `{shown('-'.join(named))}`")
    of_python = index.get("noarch") == "python"
    if of_python and not site_packages:
        raise ImageError("it is for any Python, and the environment has none")
    record = f"{RECORDS}/{package.name}-{package.version}-{package.build}.json"
    programs = _programs(content) if of_python else {}
    plan = _Plan({}, programs, {record: _record(index, package)}, set())
    for said in _listed(content):
        path = path_of(_text(said, "_path"))
        place = _place(path, site_packages) if of_python else path
        if any(place in known for known in plan):
            raise ImageError(f"`{shown(place)}` is there twice")
        if said.get("path_type") == "directory":
            plan.folders.add(place)
        else:
            plan.entries[place] = _entry(said, path, content)
    _check_folders({*plan.entries, *plan.programs, *plan.texts}, plan.folders)
    for place, entry in plan.entries.items():
        if not entry.member.source:
            _check_link(place, entry.member.target)
    return plan


def _document(content: Content, name: str) -> dict[str, Any]:
    try:
        found = json.loads(content.information[name])
    except KeyError as error:
        raise ImageError(f"it has no `{name}`: packages of before 2017 are not known") from error
    except (ValueError, RecursionError) as error:
        raise ImageError(f"its `{name}` is no JSON") from error
    if not isinstance(found, dict):
        raise ImageError(f"its `{name}` is no JSON object")
    return found


def _listed(content: Content) -> list[dict[str, Any]]:
    """The entries of `paths.json`. CEP 34."""
    document = _document(content, archives.PATHS)
    listed = document.get("paths")
    if document.get("paths_version") != 1 or not isinstance(listed, list):
        raise ImageError(f"its `{archives.PATHS}` is of no version that is known")
    if not all(isinstance(each, dict) for each in listed):
        raise ImageError(f"its `{archives.PATHS}` is not as it must be")
    return listed


def _text(said: dict[str, Any], key: str) -> str:
    value = said.get(key)
    if not isinstance(value, str):
        raise ImageError(f"its `{archives.PATHS}` has a `{key}` that is no text")
    return value


def _entry(said: dict[str, Any], path: str, content: Content) -> _Entry:
    member = content.members.get(path)
    if member is None:
        raise ImageError(f"`{shown(path)}` is in `{archives.PATHS}` and not in the archive")
    kind = _text(said, "path_type")
    if kind != ("hardlink" if member.source else "softlink"):
        raise ImageError(f"`{shown(path)}` is said to be a {shown(kind)} and is none")
    if said.get("prefix_placeholder") is None:
        return _Entry(member, "", "")
    if not member.source:
        raise ImageError(f"link `{shown(path)}` has a placeholder")
    placeholder, mode = _text(said, "prefix_placeholder"), _text(said, "file_mode")
    placeholders.check(placeholder, PREFIX, mode, path)
    if os.stat(member.source).st_size > MOST_REWRITTEN:
        raise ImageError(f"`{shown(path)}` has a placeholder and more than {MOST_REWRITTEN} bytes")
    return _Entry(member, placeholder, mode)


def _place(path: str, site_packages: str) -> str:
    """Where a file of a package for any Python goes. CEP 20."""
    first, slash, rest = path.partition("/")
    if slash and first == "site-packages":
        return f"{site_packages}/{rest}"
    if slash and first == "python-scripts":
        return f"bin/{rest}"
    return path


def _programs(content: Content) -> dict[str, str]:
    """The programs that entry points say."""
    if archives.LINK not in content.information:
        return {}
    about = _document(content, archives.LINK).get("noarch")
    points = (about.get("entry_points") if isinstance(about, dict) else None) or []
    found = {}
    for point in points if isinstance(points, list) else ():
        named = _ENTRY_POINT.fullmatch(point) if isinstance(point, str) else None
        if named is None:
            raise ImageError(f"its entry point `{shown(point)}` is not `NAME = MODULE:FUNCTION`")
        first = named[3].partition(".")[0]
        text = wheels.SCRIPT.format(prefix=PREFIX, module=named[2], call=named[3], first=first)
        found[path_of(f"bin/{named[1]}")] = text
    return found


def _record(index: dict[str, Any], package: Package) -> str:
    """What conda's own tools, and a bill of materials, read of an installed package."""
    told = {
        "name": package.name,
        "version": package.version,
        "build": package.build,
        "build_number": index.get("build_number", 0),
        "channel": package.channel,
        "subdir": package.subdir,
        "fn": package.file,
        "sha256": package.sha256,
        "size": package.size,
        "depends": index.get("depends", []),
        "license": index.get("license"),
    }
    return json.dumps(told, indent=2, sort_keys=True) + "\n"


def _check_folders(files: Iterable[str], folders: set[str]) -> None:
    """Raises ImageError when something lies below what is no folder."""
    files = set(files)
    for place in (*files, *folders):
        above = place
        while above := above.rpartition("/")[0]:
            if above in files:
                raise ImageError(f"`{shown(place)}` lies below `{shown(above)}`, which is a file")


def _check_link(place: str, target: str) -> None:
    """A link leads to somewhere in the environment."""
    depth = place.count("/")
    for part in target.split("/"):
        if part == "..":
            depth -= 1
        elif part not in ("", "."):
            depth += 1
        if depth < 0 or target.startswith("/") or not target or "\0" in target:
            raise ImageError(
                f"link `{shown(place)}` leads out of the environment, to `{shown(target)}`"
            )


def _put(entry: _Entry, place: str) -> None:
    """Give an unpacked file its name, with the path that it has here in it."""
    member = entry.member
    places.make(os.path.dirname(place))
    if entry.placeholder:
        with open(member.source, "rb") as file:
            data = file.read()
        os.unlink(member.source)
        data = placeholders.replaced(data, entry.placeholder, PREFIX, entry.mode)
        _write(place, data, executable=member.executable)
    else:
        os.rename(member.source, place)
        os.chmod(place, 0o755 if member.executable else 0o644)
    os.utime(place, ns=(member.mtime, member.mtime))  # byte code names the time of its source


def _write(place: str, data: bytes, *, executable: bool) -> None:
    places.make(os.path.dirname(place))
    mode = 0o755 if executable else 0o644
    descriptor = os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:
        file.write(data)
        os.fchmod(descriptor, mode)

"""Environments of conda: files, channels, locks, and packages that are not as they must be.

Packages are made by hand and lie in folders that are channels; no network is asked.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import stat
import struct
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import conda_channels
import made_images
import pytest
from conda_channels import PLACEHOLDER, Channel, member

from sandbox_kernel import image as images
from sandbox_kernel import settings
from sandbox_kernel.errors import HostLacks, ImageError, InvalidOption
from sandbox_kernel.image import environments, reference
from sandbox_kernel.image.environments import (
    bytecode,
    collecting,
    declared,
    environment,
    installed,
    places,
    sbom,
)
from sandbox_kernel.image.environments import lock as locks
from sandbox_kernel.image.environments.conda import (
    below,
    configuration,
    linking,
    placeholders,
    rattler,
)
from sandbox_kernel.image.environments.conda import lock as conda_locks
from sandbox_kernel.image.environments.tree import Tree
from sandbox_kernel.image.image import Image
from sandbox_kernel.image.resolve import stored
from sandbox_kernel.image.store import Store

FILE = "environment.yml"
REFERENCE = f"conda:{FILE}"
PREFIX = "opt/environment"
PYTHON = "3.11.2"
SITE = f"{PREFIX}/lib/python3.11/site-packages"


@pytest.fixture
def channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Channel:
    """The only channel of this user, `team`, and a folder to write an environment in."""
    made = Channel(tmp_path / "channel")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv(places.VARIABLE, str(tmp_path / "environments"))
    conda_channels.configure(tmp_path / "configuration", team=made.address)
    monkeypatch.chdir(tmp_path)
    _declare("words")
    return made


def _declare(*specs: str, channels: tuple[str, ...] = ("team",)) -> None:
    lines = ["channels:", *(f"  - {each}" for each in channels), "dependencies:"]
    Path(FILE).write_text("\n".join([*lines, *(f"  - {spec}" for spec in specs), ""]))


def _image(reference: str = REFERENCE, *, fresh: bool = False) -> Image:
    return environments.resolve(reference, fresh=fresh)


def _read(path: str) -> bytes:
    with Tree(_image().layers) as files:
        return files.read(f"/{PREFIX}/{path}", 1 << 20)


def _lock(reference: str = REFERENCE) -> conda_locks.Lock:
    found = environments.locked(reference)
    assert isinstance(found, conda_locks.Lock)
    return found


def _trees() -> Path:
    return Path(os.environ[places.VARIABLE], "conda")


# -- what is declared -----------------------------------------------------------------------------


def test_a_file_is_read_as_people_write_it(channel: Channel) -> None:
    Path(FILE).write_text(
        "name: analysis  # of a colleague\nprefix: /home/colleague/conda\n"
        "channels: [team, nodefaults]\n"
        "dependencies:\n- python=3.12\n- 'numpy >=2,<3'\n- team::words 1.0  0\n"
    )

    found = declared.read(f"{REFERENCE} before 2026-01-31 on debian:12")

    assert found.requirements == ("python=3.12", "numpy >=2,<3", "team::words 1.0 0")
    assert (found.channels, found.base) == (("team",), "debian:12")
    assert found.exclude_newer == "2026-01-31"


@pytest.mark.parametrize(
    ("text", "number", "why"),
    [
        ("channels: [other]\ndependencies: [a]\n", 1, "`other` is none of yours"),
        ("channels:\n- team\n- https://evil.example/c\ndependencies: [a]\n", 3, "no name of a ch"),
        ("channels:\n- ../team\ndependencies: [a]\n", 2, "is no name of a channel"),
        ("dependencies:\n- a\n- pip:\n  - b\n", 3, "packages of `pip:` are not taken"),
        ("dependencies:\n- a\n- pip: [b]\n  or: c\n", 3, "is no text"),
        ("dependencies: [a]\nvariables:\n  A: b\n", 2, "--env"),
        ("dependencies: [a]\ndependencies: [b]\n", 2, "there twice"),
        ("dependencies: [https://evil.example/a-1-0.conda]\n", 1, "is not `.CHANNEL::.NAME"),
        ("dependencies: ['/etc/a-1-0.conda']\n", 1, "is not `.CHANNEL::.NAME"),
        ("dependencies:\n- other::a\n", 2, "does not stand under `channels`"),
        ("dependencies:\n- 'a[url=https://evil.example]'\n", 2, "is not `.CHANNEL::.NAME"),
        ("dependencies:\n- [a]\n", 2, "no text"),
        ("dependencies: a\n", 1, "is no list"),
        ("dependencies:\n", 1, "it has no `dependencies`"),
        ("- a\n", 1, "is no mapping"),
        ("", 1, "is no mapping"),
        ("dependencies: [a\n", 2, "expected"),
        ("[" * 5000, 1, "no YAML"),
    ],
)
def test_what_a_file_must_not_say_is_refused_with_its_line(
    channel: Channel, text: str, number: int, why: str
) -> None:
    Path(FILE).write_text(text)

    with pytest.raises(ImageError, match=f"line {number} of .*{FILE}`: .*{why}") as caught:
        declared.read(REFERENCE)

    assert "\n" not in str(caught.value)


def test_a_channel_that_is_refused_names_the_setting(channel: Channel, tmp_path: Path) -> None:
    _declare("a", channels=("other",))

    with pytest.raises(ImageError) as caught:
        declared.read(REFERENCE)

    place = tmp_path / "configuration/sandbox-kernel/config.toml"
    assert f"name it in `[conda.channels]` of `{place}`" in str(caught.value)


def test_no_tag_of_yaml_makes_an_object(channel: Channel, tmp_path: Path) -> None:
    Path(FILE).write_text("dependencies: !!python/object/apply:os.mkdir [made]\n")

    assert declared.read(REFERENCE).requirements == ("made",)

    assert not (tmp_path / "made").exists()


def test_channels_are_the_users_and_a_project_names_none(channel: Channel, tmp_path: Path) -> None:
    assert set(configuration.channels()) == {"team", "conda-forge"}
    (tmp_path / "sandbox.toml").write_text('[conda.channels]\nevil = "https://evil.example"\n')

    with pytest.raises(InvalidOption, match=r"sandbox\.toml.*channels of conda stand only in"):
        settings.load(str(tmp_path))


@pytest.mark.parametrize("address", ["", "ftp://x", "file://relative", "https://", "https://a b"])
def test_an_address_that_is_none_is_refused(channel: Channel, tmp_path: Path, address: str) -> None:
    conda_channels.configure(tmp_path / "configuration", team=address)

    with pytest.raises(InvalidOption, match="NAME=https://HOST/CHANNEL"):
        configuration.channels()


def test_without_the_extra_it_says_how_to_install_it(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(rattler.LIBRARIES, "rattler_that_is_not_there", "py-rattler")

    with pytest.raises(HostLacks, match=r"py-rattler.*pip install 'sandbox-kernel\[conda\]'"):
        _image()


# -- the base -------------------------------------------------------------------------------------


def _loader(machine: int) -> bytes:
    return struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01", 3, machine, 1, 0, 64, 0, 0, 64, 56, 0, 0, 0, 0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("loader", "number", "subdir"),
    [
        ("lib64/ld-linux-x86-64.so.2", 62, "linux-64"),
        ("lib/ld-linux-aarch64.so.1", 183, "linux-aarch64"),
    ],
)
def test_the_base_says_which_glibc_and_which_machine(
    tmp_path: Path, loader: str, number: int, subdir: str
) -> None:
    for folder in ("lib", "lib64"):
        (tmp_path / folder).mkdir()
    (tmp_path / loader).write_bytes(_loader(number))
    (tmp_path / loader).with_name("libc.so.6").write_bytes(b"\0GLIBC_2.17\0GLIBC_2.31\0")

    with Tree((str(tmp_path),)) as files:
        found = below.find(files, "dir:x")

    assert (found.subdir, found.glibc) == (subdir, (2, 31))
    assert ("__glibc", "2.31", "0") in found.virtual_packages


def test_a_base_with_musl_and_one_with_nothing_are_refused(tmp_path: Path) -> None:
    with Tree((str(tmp_path),)) as files, pytest.raises(ImageError, match="need glibc, and it has"):
        below.find(files, "scratch")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/ld-musl-x86_64.so.1").write_bytes(b"musl")

    with Tree((str(tmp_path),)) as files, pytest.raises(ImageError, match="and it has musl"):
        below.find(files, "alpine:3")


# -- from channels to layers ----------------------------------------------------------------------


def test_packages_of_both_kinds_become_layers_at_one_prefix(channel: Channel) -> None:
    text = f"home={PLACEHOLDER}/share\n"
    data = b"\x7fELF" + f"{PLACEHOLDER}/lib:{PLACEHOLDER}/more".encode() + b"\0\1\2rest"
    channel.add("words", files={"etc/words": text}, placeholders={"etc/words": "text"},
                links={"lib/w": "../etc/words"}, depends=["old"])  # fmt: skip
    channel.add("old", files={"bin/old": data}, placeholders={"bin/old": "binary"}, kind=".tar.bz2")

    image = _image()

    assert _read("etc/words") == b"home=/opt/environment/share\n" == _read("lib/w")
    found = _read("bin/old")
    assert len(found) == len(data)
    assert found.startswith(b"\x7fELF/opt/environment/lib:/opt/environment/more\0")
    assert found.endswith(b"\0\1\2rest")
    assert "CONDA_PREFIX=/opt/environment" in image.config["Env"]
    assert image.interpreter != environment.INTERPRETER, "it has no Python, the base has one"
    assert _image().digest == image.digest


def test_a_lock_is_kept_and_an_update_asks_the_channels_anew(channel: Channel) -> None:
    channel.add("words", "1.0")
    _image()
    channel.add("words", "2.0")

    assert [each.version for each in _lock().packages] == ["1.0"]
    _image(fresh=True)
    assert [each.version for each in _lock().packages] == ["2.0"]


def test_a_date_leaves_out_what_was_built_later(channel: Channel) -> None:
    channel.add("words", "1.0", built=1_700_000_000)
    channel.add("words", "2.0", built=1_800_000_000)

    for date, version in (
        ("2023-11-14", "1.0"),
        ("2027-01-14T00:00:00Z", "1.0"),
        ("2027-01-16", "2.0"),
    ):
        (package,) = _lock(f"{REFERENCE} before {date}").packages
        assert package.version == version


def test_a_channel_before_the_name_of_a_package_chooses_it(
    channel: Channel, tmp_path: Path
) -> None:
    channel.add("words", "2.0")
    other = Channel(tmp_path / "other")
    other.add("words", "1.0")
    place = tmp_path / "configuration"
    conda_channels.configure(place, team=channel.address, other=other.address)

    _declare("words", channels=("other", "team"))
    assert [each.channel for each in _lock().packages] == ["other"]
    _declare("team::words", channels=("other", "team"))
    assert [each.channel for each in _lock().packages] == ["team"]


def test_a_lock_names_channels_and_no_addresses(channel: Channel) -> None:
    channel.add("words")

    text = conda_locks.encode(_lock())

    assert b'"channel":"team"' in text
    assert str(channel.folder).encode() not in text
    assert b"://" not in text


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("missing", "which channel has it"),
        ("words >5", "words"),
        ("needs_new_glibc", "__glibc"),
    ],
)
def test_what_can_not_be_solved_is_one_line_with_the_reason(
    channel: Channel, spec: str, why: str
) -> None:
    channel.add("words")
    channel.add("needs_new_glibc", depends=["__glibc >=9.0"])
    _declare(spec)

    with pytest.raises(ImageError, match=why) as caught:
        _image()

    assert "\n" not in str(caught.value)


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def served(channel: Channel) -> Iterator[str]:
    """The address of the channel's parent folder on loopback."""
    handler = partial(_Handler, directory=str(channel.folder.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_channel_over_http_is_fetched_and_its_token_is_never_told(
    channel: Channel, served: str, tmp_path: Path
) -> None:
    channel.add("words", files={"etc/words": "said\n"})
    (tmp_path / "secret-token").symlink_to(tmp_path)
    address = f"{served}/secret-token/channel"
    conda_channels.configure(tmp_path / "configuration", team=address)

    assert _read("etc/words") == b"said\n"

    assert b"secret-token" not in conda_locks.encode(_lock())
    conda_channels.configure(tmp_path / "configuration", team=f"{address}/nothing")
    with pytest.raises(ImageError, match="is one of a channel") as caught:
        _image()
    assert "secret-token" not in str(caught.value)


def test_a_package_with_another_hash_than_the_lock_says_is_not_taken(channel: Channel) -> None:
    channel.add("words")
    kept = locks.keep(_lock())
    channel.add("words", files={"etc/evil": "evil"})

    with pytest.raises(ImageError, match="larger than its lock says"):
        _image(f"{REFERENCE}@{kept}")

    assert not list(_trees().iterdir())


def test_the_hash_counts_where_the_size_is_the_same(channel: Channel) -> None:
    file = channel.add("words", files={"etc/words": "a" * 100})
    kept = locks.keep(_lock())
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    with pytest.raises(ImageError, match=r"its sha256 is [0-9a-f]{64}, the lock says"):
        _image(f"{REFERENCE}@{kept}")

    assert not list(_trees().iterdir())


def test_a_changed_package_leaves_the_trees_of_others_as_they_are(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "LARGE", 1 << 10)  # each is a layer of its own
    _declare("words", "others")
    for name in ("words", "others"):
        channel.add(name, files={f"etc/{name}": os.urandom(2000)})
    before = _image().layers
    channel.add("words", "2.0", files={"etc/words": os.urandom(2000)})

    after = _image(fresh=True).layers

    changed = set(after) - set(before)
    assert [Path(layer).name.rpartition("-")[0] for layer in changed] == ["words-2.0"]
    assert len(set(after) & set(before)) == len(after) - 1


def test_modules_for_any_python_go_where_the_python_looks(channel: Channel) -> None:
    channel.add("python", PYTHON, files={"bin/python3.11": "no program"})
    channel.add("words", noarch="python", files={"site-packages/words.py": "said = 1\n",
                "python-scripts/tell": "#!/usr/bin/env python\n"},
                entry_points=["say = words:main.run"])  # fmt: skip
    _declare("words", "python")

    image = _image()

    assert image.interpreter == "/opt/environment/bin/python"
    assert _read("lib/python3.11/site-packages/words.py") == b"said = 1\n"
    assert _read("bin/tell").startswith(b"#!/usr/bin/env")
    say = _read("bin/say").decode()
    assert say.startswith("#!/opt/environment/bin/python\n")
    assert "from words import main" in say
    assert "sys.exit(main.run())" in say
    (tree,) = _trees().glob("words-*")
    assert stat.S_IMODE((tree / f"{PREFIX}/bin/say").stat().st_mode) == 0o755


_INSTALL = """
import asyncio, os, sys
import rattler

async def install(channel, subdir, target):
    channels = [rattler.Channel(channel)]
    found = await rattler.solve(channels, ["words", "old"], platforms=[subdir, "noarch"])
    await rattler.install(found, target, cache_dir=f"{target}-cache",
                          platform=rattler.Subdir(subdir),
                          alternative_target_prefix="/opt/environment")

asyncio.run(install(*sys.argv[1:]))
os._exit(0)
"""


def test_it_is_linked_as_rattlers_own_installer_does_it(channel: Channel, tmp_path: Path) -> None:
    data = b"\x7fELF" + f"{PLACEHOLDER}/a:{PLACEHOLDER}\0{PLACEHOLDER}/b\0\1\2".encode() + b"\0rest"
    text = f"#!{PLACEHOLDER}/bin/python\nprint('{PLACEHOLDER}')\n"
    channel.add(
        "python", PYTHON, files={"bin/python3.11": "no program", "lib/python3.11/os.py": ""}
    )
    channel.add("old", files={"bin/old": data, "bin/tell": text, "share/old": "as it is\n"},
                placeholders={"bin/old": "binary", "bin/tell": "text"},
                links={"bin/new": "old", "lib/up": "../share/old"}, kind=".tar.bz2")  # fmt: skip
    channel.add("words", noarch="python", depends=["python"],
                files={"site-packages/words.py": "said = 1\n", "python-scripts/say": text,
                       "etc/words": "x\n"})  # fmt: skip
    _declare("words", "old")
    target = tmp_path / "installed"
    words = [channel.address, conda_channels.HERE, str(target)]
    subprocess.run([sys.executable, "-c", _INSTALL, *words], check=True)

    ours: dict[str, object] = {}
    image = _image()
    for layer in image.layers:
        ours |= _content(Path(layer, PREFIX))

    theirs = _content(target)
    del theirs["CACHEDIR.TAG"]
    assert ours == theirs
    assert len(ours) == 10


def _content(root: Path) -> dict[str, object]:
    """What lies below a prefix, but for records and byte code."""
    found: dict[str, object] = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if name.startswith("conda-meta") or "__pycache__" in name:
            continue
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            found[name] = (path.read_bytes(), bool(path.stat().st_mode & 0o100))
    return found


def test_a_package_for_any_python_needs_one(channel: Channel) -> None:
    channel.add("words", noarch="python", files={"site-packages/words.py": ""})

    with pytest.raises(ImageError, match="the environment has none"):
        _image()


def test_times_of_files_are_those_that_byte_code_names(channel: Channel) -> None:
    channel.add("words", files={"lib/a.py": f"a = '{PLACEHOLDER}'", "lib/b.py": "b = 1"},
                placeholders={"lib/a.py": "text"})  # fmt: skip
    _image()

    (tree,) = _trees().iterdir()
    for name in ("a.py", "b.py"):
        assert (tree / PREFIX / "lib" / name).stat().st_mtime == conda_channels.TIME


def test_scripts_of_packages_are_not_run_and_it_is_told(channel: Channel, tmp_path: Path) -> None:
    script = f"#!/bin/sh\ntouch {tmp_path}/ran\n"
    names = ("pre-link", "post-link", "pre-unlink")
    channel.add("words", files={f"bin/.words-{name}.sh": script for name in names})

    (notice,) = _image().notices

    assert notice.startswith("scripts of words that an installer of conda runs were not run")
    assert not (tmp_path / "ran").exists()


def test_what_nobody_used_for_a_while_goes(channel: Channel) -> None:
    channel.add("words", files={"etc/words": "said\n"})
    _image()
    (tree,) = _trees().iterdir()
    known = _trees().parent / "channels/0123abcd.json"
    known.write_text("what rattler keeps of a channel that is not a folder")
    for path in (tree, known):
        os.utime(path, (1, 1))

    assert collecting.prune() > 0

    assert not list(_trees().iterdir())
    assert not known.exists()
    assert _read("etc/words") == b"said\n", "it is made again"


def test_a_bill_of_materials_names_packages_of_conda(channel: Channel) -> None:
    channel.add("words", "1.5")

    found = {each for each in sbom.packages(_image()) if each.kind == "conda"}

    record = "/opt/environment/conda-meta/words-1.5-0.json"
    assert found == {installed.Package("conda", "words", "1.5", licence="MIT", source=record)}
    document = sbom.document(_image(), tool="test-1")
    assert "pkg:conda/words@1.5" in json.dumps(document)


def test_an_environment_is_kept_with_the_same_digest_whoever_makes_it(
    channel: Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANDBOX_KERNEL_IMAGES", str(tmp_path / "store"))
    store = Store.open()
    machine = {"linux-64": 62, "linux-aarch64": 183}[conda_channels.HERE]
    loader = below.LOADERS[{62: "x86_64", 183: "aarch64"}[machine]].lstrip("/")
    libc = f"{Path(loader).parent}/libc.so.6"
    files: dict[str, bytes | str | None] = {"lib": None, str(Path(loader).parent): None}
    files |= {loader: _loader(machine), libc: b"\0GLIBC_2.36\0"}
    made_images.put(store, "small:1", [made_images.layer(files)], env=["PATH=/usr/bin"])
    channel.add("python", PYTHON, files={"bin/python3.11": "no program"})
    channel.add("words", files={"etc/words": "said\n"}, links={"etc/link": "words"})
    _declare("words", "python")
    text = f"{REFERENCE} on small:1"

    first = stored(store, reference.parse(text))
    monkeypatch.setenv(places.VARIABLE, str(tmp_path / "elsewhere"))
    second = stored(store, reference.parse(text))

    assert first.digest == second.digest
    assert first.config.config is not None
    assert first.config.config.cmd == ["/opt/environment/bin/python"]
    assert "CONDA_PREFIX=/opt/environment" in (first.config.config.env or ())
    with Tree(images.resolve(first.digest).layers) as tree:
        assert tree.read("/opt/environment/etc/link", 100) == b"said\n"


# -- locks that came from elsewhere ---------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../../words"},
        {"version": "1.0/../.."},
        {"build": "../0"},
        {"channel": "https://evil.example"},
        {"channel": "../evil"},
        {"subdir": "../noarch"},
        {"subdir": "win-64"},
        {"file": "../words-1.0-0.conda"},
        {"file": "other-1.0-0.conda"},
        {"sha256": "zz"},
        {"size": -1},
        {"size": 1 << 50},
        {"url": "https://evil.example"},
    ],
)
def test_a_forged_lock_is_refused(channel: Channel, change: Mapping[str, object]) -> None:
    channel.add("words")
    document = json.loads(conda_locks.encode(_lock()))
    document["packages"][0] |= change

    with pytest.raises(ImageError, match="make a new one"):
        conda_locks.decode(json.dumps(document), "test")


@pytest.mark.parametrize(
    "change",
    [
        {"site_packages": "lib/python3.11/site-packages/../../../.."},
        {"site_packages": "/etc"},
        {"machine": "pdp11"},
        {"glibc": "new"},
        {"more": 1},
    ],
)
def test_a_lock_for_what_can_not_be_is_refused(
    channel: Channel, change: Mapping[str, object]
) -> None:
    channel.add("words")
    document = json.loads(conda_locks.encode(_lock())) | change

    with pytest.raises(ImageError, match="make a new one"):
        conda_locks.decode(json.dumps(document), "test")


def test_a_lock_of_a_channel_that_is_not_the_users_is_refused(
    channel: Channel, tmp_path: Path
) -> None:
    channel.add("words")
    kept = locks.keep(_lock())
    _declare("words", channels=("conda-forge",))
    conda_channels.configure(tmp_path / "configuration", other=channel.address)

    with pytest.raises(ImageError, match=r"channel `team` is none of yours.*\[conda\.channels\]"):
        _image(f"{REFERENCE}@{kept}")


def test_a_lock_for_a_newer_glibc_or_another_machine_is_not_used(channel: Channel) -> None:
    channel.add("words", depends=["__glibc >=2.17,<3.0.a0"])
    lock = _lock()
    assert lock.glibc == "2.17"

    lock.check(below.Base(lock.machine, (2, 17)), REFERENCE)
    for base in (below.Base(lock.machine, (2, 16)), below.Base("pdp11", (2, 36))):
        with pytest.raises(ImageError, match="%sandbox update"):
            lock.check(base, REFERENCE)


# -- hostile packages -----------------------------------------------------------------------------


def _install(file: Path, tree: Path) -> None:
    """As it is done with one package that was fetched."""
    data = file.read_bytes()
    digits = hashlib.sha256(data).hexdigest()
    package = conda_locks.Package(
        "words", "1.0", "0", "team", file.parent.name, file.name, digits, len(data)
    )
    linking.install(str(file), package, SITE.removeprefix(f"{PREFIX}/"), str(tree))


def _hostile(path: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> dict[str, object]:
    said = "softlink" if kind == tarfile.SYMTYPE else "hardlink"
    return {
        "members": [(member(path, kind, target=target), b"")],
        "paths": [{"_path": path, "path_type": said}],
    }


@pytest.mark.parametrize(
    ("package", "why"),
    [
        (_hostile("../../../evil"), "leads out of the layer by `..`"),
        (_hostile("lib/../../../../evil"), "leads out of the layer by `..`"),
        (_hostile("/etc/evil"), "is an absolute path"),
        (_hostile("lib/.wh.libc.so"), "would hide a file"),
        (_hostile("lib/device", tarfile.CHRTYPE), "is a device"),
        (_hostile("lib/device", tarfile.BLKTYPE), "is a device"),
        (_hostile("lib/pipe", tarfile.FIFOTYPE), "is a pipe"),
        (_hostile("lib/link", tarfile.SYMTYPE, "/etc/passwd"), "leads out of the environment"),
        (_hostile("lib/link", tarfile.SYMTYPE, "../../etc"), "leads out of the environment"),
        (_hostile("lib/link", tarfile.SYMTYPE, "a/../../../etc"), "leads out of the environment"),
        (_hostile("lib/link", tarfile.LNKTYPE, "/etc/passwd"), "is an absolute path"),
        (_hostile("lib/link", tarfile.LNKTYPE, "lib/missing"), "hard link to no file before it"),
        (
            {
                "links": {"lib/link": "../etc"},
                **_hostile("lib/link/evil"),
            },
            "lies below `lib/link`, which is a file",
        ),
        (
            {"files": {"lib/twice": ""}, "members": [(member("lib/twice"), b"")]},
            "is there twice",
        ),
        (
            {"files": {"lib/a": ""}, "paths": [{"_path": "lib//a", "path_type": "hardlink"}]},
            "is there twice",
        ),
        ({"paths": [{"_path": "../a", "path_type": "directory"}]}, "leads out of the layer"),
        ({"paths": [{"_path": "lib/a", "path_type": "hardlink"}]}, "and not in the archive"),
        ({"paths": [{"path_type": "hardlink"}]}, "is no text"),
        ({"paths": [7]}, "is not as it must be"),
        (
            {"links": {"lib/a": "b"}, "paths": [{"_path": "lib/a", "path_type": "hardlink"}]},
            "is there twice",
        ),
        (
            {"members": [(member("lib/a", tarfile.SYMTYPE, target="b"), b"")],
             "paths": [{"_path": "lib/a", "path_type": "hardlink"}]},
            "is said to be a hardlink and is none",
        ),
        ({"files": {"conda-meta/words-1.0-0.json": "{}"}}, "is there twice"),
        ({"files": {"conda-meta/words-1.0-0.json/a": "{}"}}, "which is a file"),
        ({"information": {"info/index.json": {"name": "other"}}}, "it holds another package"),
        ({"information": {"info/index.json": [1]}}, "is no JSON object"),
        ({"information": {"info/paths.json": None}}, "it has no `info/paths.json`"),
        ({"information": {"info/paths.json": {"paths": [], "paths_version": 9}}}, "no version"),
        ({"files": {"lib/a": "x"}, "placeholders": {"lib/a": "script"}}, "not text or binary"),
        (
            {"files": {"lib/a": "x"},
             "information": {"info/paths.json": {"paths_version": 1, "paths": [
                 {"_path": "lib/a", "path_type": "hardlink", "file_mode": "text",
                  "prefix_placeholder": "a"}]}}},
            "a placeholder that can't be one",
        ),
        (
            {"files": {"lib/a": "x"},
             "information": {"info/paths.json": {"paths_version": 1, "paths": [
                 {"_path": "lib/a", "path_type": "hardlink", "file_mode": "binary",
                  "prefix_placeholder": "/opt/short"}]}}},
            "is longer",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [".conda", ".tar.bz2"])
def test_a_package_that_is_not_as_it_must_be_is_refused_whole(
    channel: Channel, tmp_path: Path, package: dict[str, object], why: str, kind: str
) -> None:
    file = channel.add("words", kind=kind, **package)  # type: ignore[arg-type]

    with pytest.raises(ImageError, match=re.escape(why)) as caught:
        _install(file, tmp_path / "tree")

    assert f"install `words-1.0-0{kind}` of channel `team`" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "tree").exists(), "all is looked at before anything is made"
    assert not list(tmp_path.rglob("evil"))


def test_of_a_package_that_is_refused_nothing_is_kept(channel: Channel) -> None:
    channel.add("words", files={"lib/a": "x"}, placeholders={"lib/a": "script"})

    with pytest.raises(ImageError, match="not text or binary"):
        _image()

    assert not list(_trees().iterdir())


@pytest.mark.parametrize(
    "point",
    ["../../evil = words:main", "a/b = words:main", "say = words; import os:main", ".. = a:b"],
)
def test_an_entry_point_is_a_name_and_a_function(channel: Channel, point: str) -> None:
    file = channel.add("words", noarch="python", entry_points=[point])

    with pytest.raises(ImageError, match=r"entry point|leads out|names no file"):
        _install(file, channel.folder / "tree")


def test_special_modes_and_owners_of_a_package_are_not_kept(
    channel: Channel, tmp_path: Path
) -> None:
    info = member("bin/root")
    info.mode, info.uid, info.gid = 0o6777, 12345, 12345
    said = [{"_path": "bin/root", "path_type": "hardlink"}]
    file = channel.add("words", members=[(info, b"")], paths=said)
    _install(file, tmp_path / "tree")

    seen = (tmp_path / "tree" / PREFIX / "bin/root").stat()
    assert stat.S_IMODE(seen.st_mode) == 0o755
    assert (seen.st_uid, seen.st_gid) == (os.getuid(), os.getgid())


def test_a_damaged_archive_is_refused(channel: Channel) -> None:
    for kind in (".conda", ".tar.bz2"):
        file = channel.add("words", kind=kind, files={"etc/words": "said"})
        file.write_bytes(file.read_bytes()[:200])
        with pytest.raises(ImageError, match=r"damaged|cut off|not one part"):
            _install(file, channel.folder / "tree")


@pytest.mark.parametrize(("link", "folder"), [("first", "second"), ("second", "first")])
def test_no_package_writes_through_a_link_of_another_one(
    channel: Channel, tmp_path: Path, link: str, folder: str
) -> None:
    """What would be put together in one layer, on this machine's file system."""
    _declare("first", "second")
    channel.add(link, links={"lib/place": "../etc"}, files={"etc/a": "a"})
    channel.add(folder, files={"lib/place/evil": "evil"})

    with pytest.raises(ImageError, match=r"`/opt/environment/lib/place`: two packages have it"):
        _image()

    groups = Path(os.environ[places.VARIABLE], "groups")
    assert not list(groups.iterdir())


def test_byte_code_is_made_of_files_and_not_of_what_links_lead_to(
    channel: Channel, tmp_path: Path
) -> None:
    (tmp_path / "secret.py").write_text("password = 'secret'\n")
    tree = _trees() / "forged-1.0-0"
    (tree / SITE).mkdir(parents=True)
    (tree / SITE / "mine.py").write_text("said = 1\n")
    (tree / SITE / "link.py").symlink_to(tmp_path / "secret.py")

    assert list(bytecode._python_files(str(tree))) == [f"/{SITE}/mine.py"]

    link = str(tree / SITE / "link.py")  # as if it had become one just now
    with pytest.raises(OSError, match="symbolic links"):
        bytecode._open_no_link(link, os.O_RDONLY)


def test_strings_without_an_end_are_left_and_long_files_are_read_once() -> None:
    old, new = "/" + "a" * 30, "/opt"
    unended = (old * 100_000).encode()

    assert placeholders.replaced(unended, old, new, "binary") == unended
    ended = placeholders.replaced(unended + b"\0", old, new, "binary")
    assert len(ended) == len(unended) + 1
    assert ended.startswith(b"/opt/opt")

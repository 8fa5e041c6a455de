"""Declared environments: what is read, what is refused, what is resolved, and which files result.

Wheels are made by hand and found by uv in a folder; no network is asked.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import made_images
import pytest
import wheels as by_hand

from sandbox_kernel import image as images
from sandbox_kernel.cli import main as command
from sandbox_kernel.errors import HostLacks, ImageError
from sandbox_kernel.image import environments, reference
from sandbox_kernel.image.environments import (
    bytecode,
    collecting,
    compiling,
    declared,
    elf,
    environment,
    installed,
    kept_kernels,
    kernel_layer,
    places,
    resolving,
    sbom,
    script,
    tags,
    uv,
)
from sandbox_kernel.image.environments import lock as locks
from sandbox_kernel.image.environments import python as pythons
from sandbox_kernel.image.environments.python import Python
from sandbox_kernel.image.environments.tree import Tree
from sandbox_kernel.image.image import Image
from sandbox_kernel.image.resolve import stored
from sandbox_kernel.image.store import Store

GLIBC = Python("/usr/bin/python3.12", (3, 12), "glibc", (2, 36), "x86_64")
MUSL = Python("/usr/bin/python3.12", (3, 12), "musl", (1, 2), "x86_64")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is all that uv knows, and caches of this test alone."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv(places.VARIABLE, str(tmp_path / "environments"))
    return folder


# -- what is declared -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "requirements", "base"),
    [
        ("packages: numpy==2.1, pandas", ("numpy==2.1", "pandas"), "host"),
        ("packages:a[b,c]>=1,<2,d", ("a[b,c]<2,>=1", "d"), "host"),
        ("packages: six on python:3.12-slim", ("six",), "python:3.12-slim"),
        ("packages: six on dir:/a on b", ("six",), "dir:/a on b"),
    ],
)
def test_packages_are_read_as_people_write_them(
    text: str, requirements: tuple[str, ...], base: str
) -> None:
    found = declared.read(text)

    assert (found.requirements, found.base) == (requirements, base)


def test_a_date_a_lock_and_a_python_belong_to_the_reference() -> None:
    digest = "sha256:" + "a" * 64
    text = f"packages: six, python>=3.11@{digest} before 2026-01-31 on dir:/x"

    found = declared.read(text)

    assert found.requires_python == ">=3.11"
    assert (found.lock, found.exclude_newer, found.requirements) == (digest, "2026-01-31", ("six",))
    assert found.reference == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("packages:", "it is not"),
        ("packages: six on ", "it is not"),
        ("packages: -e .", "is no requirement"),
        ("packages: six @ https://example.org/six.whl", "from an address"),
        ("packages: six on packages: rich", "stands on an image that is none"),
        ("requirements:no-such-file", "can't be read"),
    ],
)
def test_what_is_no_environment_is_refused_in_one_line(text: str, why: str) -> None:
    with pytest.raises(ImageError, match=why) as caught:
        declared.read(text)

    assert "\n" not in str(caught.value)


def test_a_file_of_requirements_has_comments_lines_hashes_and_files(tmp_path: Path) -> None:
    digits = "b" * 64
    (tmp_path / "more.txt").write_text("rich<14  # why\n")
    (tmp_path / "limits.txt").write_text("pygments<3\n")
    main = tmp_path / "requirements.txt"
    main.write_text(
        f"# ours\nsix==1.16.0 \\\n  --hash=sha256:{digits}\n-r more.txt\n-c limits.txt\n"
    )

    found = declared.read(f"requirements:{main}")

    assert found.requirements == ("six==1.16.0", "rich<14")
    assert found.constraints == ("pygments<3",)
    assert found.hashes == {"six": frozenset({digits})}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("--index-url https://example.org/simple", "is set by the user|are set by the user"),
        ("--extra-index-url=https://example.org", "are set by the user"),
        ("-e .", "are set by the user"),
        ("-f /tmp", "are set by the user"),
        ("-r ../outside.txt", "not below the folder"),
        ("-r /etc/passwd", "not below the folder"),
        ("./local.whl", "is no requirement"),
        ("six --config-settings=x", "only `--hash"),
        ("git+https://example.org/x.git", "is no requirement"),
    ],
)
def test_a_file_of_requirements_decides_nothing_that_is_the_users(
    tmp_path: Path, line: str, why: str
) -> None:
    (tmp_path / "requirements.txt").write_text(f"six\n{line}\n")

    with pytest.raises(ImageError, match=why) as caught:
        declared.read(f"requirements:{tmp_path}/requirements.txt")

    assert "line 2" in str(caught.value)


def test_a_file_that_names_itself_ends(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("-r requirements.txt\n")

    with pytest.raises(ImageError, match="more than 8 deep"):
        declared.read(f"requirements:{tmp_path}/requirements.txt")


def test_a_project_gives_its_dependencies_and_is_not_run(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nname="x"\ndependencies=["six"]\nrequires-python=">=3.10"\n')

    found = declared.read(f"pyproject:{tmp_path}")

    assert (found.requirements, found.requires_python) == (("six",), ">=3.10")
    project.write_text('[project]\nname="x"\ndynamic=["dependencies"]\n')
    with pytest.raises(ImageError, match="would run the project's code"):
        declared.read(f"pyproject:{tmp_path}")
    project.write_text('[project]\nname="x"\n[tool.uv.sources]\nsix={url="https://x"}\n')
    with pytest.raises(ImageError, match="set by the user"):
        declared.read(f"pyproject:{tmp_path}")


# -- PEP 723 --------------------------------------------------------------------------------------

HEAD = '# /// script\n# requires-python = ">=3.11"\n# dependencies = [\n#   "six",\n# ]\n# ///\n'


def test_the_head_of_a_cell_is_an_environment_over_the_cells_image() -> None:
    assert script.reference(HEAD + "import six", "host") == "packages: six, python>=3.11"
    assert script.reference(HEAD, "dir:/x") == "packages: six, python>=3.11 on dir:/x"
    assert script.reference(HEAD, "packages: rich on dir:/x").endswith(  # type: ignore[union-attr]
        "six, python>=3.11 on dir:/x"
    )
    assert script.reference("print('# /// script')", "host") is None
    assert script.reference("1 + 1", "host") is None


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("# /// script\n# dependencies = []\n", "no line `# ///` ends it"),
        (HEAD + "\n" + HEAD, "it is there twice"),
        ("# /// script\n# dependencies = [\n# ///\n", "write TOML"),
        ('# /// script\n# dependencies = "six"\n# ///\n', "no list"),
    ],
)
def test_a_head_that_is_not_whole_is_refused(code: str, why: str) -> None:
    with pytest.raises(ImageError, match=why):
        script.reference(code, "host")


# -- which Python, which wheel --------------------------------------------------------------------


def _elf(interpreter: bytes = b"/lib/ld-musl-x86_64.so.1\0", machine: int = 62) -> bytes:
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01", 3, machine, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0,
    )  # fmt: skip
    where = 64 + 56
    segment = struct.pack("<IIQQQQQQ", 3, 4, where, 0, 0, len(interpreter), len(interpreter), 1)
    return header + segment + interpreter


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"#!/bin/sh\n", "a script"),
        (b"", "no ELF"),
        (b"\x7fELF\x01\x01" + b"\0" * 60, "64 bit"),
        (_elf(machine=8), "machine"),
        (_elf()[:90], "cut off"),
        (_elf()[:32] + b"\xf0" * 8 + _elf()[40:], "cut off"),  # headers where no file can reach
        (_elf(b"relative\0"), "loader"),
        (_elf(b"/" + b"a" * 300 + b"\0"), "too long"),
    ],
)
def test_what_is_no_program_is_told_apart(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "program"
    path.write_bytes(data)

    with path.open("rb") as file, pytest.raises(ValueError, match=why):
        elf.read(file.fileno())


def _musl_root(root: Path) -> Path:
    """An Alpine-like tree, as far as files tell which Python it has."""
    (root / "usr/bin").mkdir(parents=True)
    (root / "lib").mkdir()
    (root / "usr/bin/python3.12").write_bytes(_elf())
    (root / "usr/bin/python3").symlink_to("/usr/bin/python3.12")
    (root / "lib/ld-musl-x86_64.so.1").write_bytes(b"\x7fELF\0" + b"\x001.2.4\0rest")
    return root


def test_musl_is_found_by_the_loader_of_the_images_python(tmp_path: Path) -> None:
    root = _musl_root(tmp_path)

    with Tree((str(root),)) as files:
        found = pythons.find(files, "/usr/bin/python3", "dir:x")

    assert found == MUSL
    assert uv.target(found)[-1] == "x86_64-unknown-linux-musl"
    assert uv.target(GLIBC)[-1] == "x86_64-manylinux_2_36"


def test_the_python_of_this_machine_is_found_without_running_it() -> None:
    found = environment.python_of(images.resolve("host"))

    assert found.version == sys.version_info[:2]
    assert found.machine == os.uname().machine


def test_an_image_without_python_or_with_one_too_old_says_so(tmp_path: Path) -> None:
    with Tree((str(tmp_path),)) as files, pytest.raises(ImageError, match="--program"):
        pythons.find(files, None, "dir:x")
    root = _musl_root(tmp_path)
    (root / "usr/bin/python3.8").write_bytes(_elf())
    with Tree((str(root),)) as files, pytest.raises(ImageError, match=r"is Python 3\.8"):
        pythons.find(files, "/usr/bin/python3.8", "dir:x")


def test_the_best_wheel_is_the_one_that_pip_would_take() -> None:
    old = "a-1-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"
    new = "a-1-cp312-cp312-manylinux_2_28_x86_64.whl"
    newer = "a-1-cp312-cp312-manylinux_2_39_x86_64.whl"
    stable = "a-1-cp39-abi3-manylinux_2_28_x86_64.whl"
    musl = "a-1-cp312-cp312-musllinux_1_2_x86_64.whl"
    pure = "a-1-py3-none-any.whl"

    assert tags.best(GLIBC, [pure, stable, old, new, newer, musl]) == new
    assert tags.best(MUSL, [pure, stable, old, new, musl]) == musl
    assert tags.best(MUSL, [old, pure]) == pure
    assert tags.best(GLIBC, [musl, newer, "nonsense"]) is None


# -- the merged view of layers --------------------------------------------------------------------


def test_layers_are_read_as_overlayfs_shows_them(tmp_path: Path) -> None:
    low, high = tmp_path / "low", tmp_path / "high"
    (low / "etc/opaque").mkdir(parents=True)
    (high / "etc/opaque").mkdir(parents=True)
    (low / "etc/a").write_text("low")
    (low / "etc/gone").write_text("low")
    (low / "etc/opaque/below").write_text("low")
    (high / "etc/b").write_text("high")
    (high / "etc/gone").write_text("")
    os.setxattr(high / "etc/gone", "user.overlay.whiteout", b"y")
    os.setxattr(high / "etc/opaque", "user.overlay.opaque", b"y")
    (high / "link").symlink_to("../../../etc")
    (high / "loop").symlink_to("/loop")

    with Tree((str(low), str(high))) as files:
        assert files.names("/etc") == ["a", "b", "opaque"]
        assert files.names("/etc/opaque") == []
        assert files.read("/link/a", 10) == b"low"
        assert files.real("/link/../link/b") == "/etc/b"
        assert not files.exists("/etc/gone")
        with pytest.raises(OSError, match="symbolic"):
            files.read("/loop", 10)
        with pytest.raises(OSError, match="more than 2"):
            files.read("/etc/a", 2)


def test_a_link_of_an_image_never_leads_to_this_machines_files(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    secret = tmp_path / "secret"
    secret.write_text("mine")
    (root / "absolute").symlink_to(secret)
    (root / "relative").symlink_to("../secret")

    with Tree((str(root),)) as files:
        for name in ("absolute", "relative"):
            with pytest.raises(FileNotFoundError):
                files.read(f"/{name}", 100)


# -- from requirements to files -------------------------------------------------------------------


def _image(reference: str) -> Image:
    return environments.resolve(reference)


def _files(image: Image) -> set[str]:
    with Tree(image.layers) as files:
        packages = f"/opt/environment/lib/python{_minor()}/site-packages"
        return set(files.names(packages))


def _minor() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def test_packages_become_layers_with_their_dependencies_and_scripts(index: Path) -> None:
    by_hand.make(index, "greeting", requires=["words>=1"], scripts={"greet": "greeting:main"})
    by_hand.make(index, "words", "1.5")

    image = _image("packages: greeting")

    assert image.interpreter == "/opt/environment/bin/python"
    assert {"greeting", "words", "words-1.5.dist-info"} <= _files(image)
    with Tree(image.layers) as files:
        script_text = files.read("/opt/environment/bin/greet", 1000).decode()
        settings = files.read("/opt/environment/pyvenv.cfg", 1000).decode()
    assert script_text.startswith("#!/opt/environment/bin/python\n")
    assert "home = " + os.path.dirname(os.path.realpath(sys._base_executable)) in settings
    assert _image("packages: greeting").digest == image.digest


def test_the_same_wheels_give_the_same_digest_whatever_was_made_before(index: Path) -> None:
    by_hand.make(index, "words", "1.5")
    first = _image("packages: words").digest
    for _, folders, _ in os.walk(os.environ[places.VARIABLE]):
        assert "partial" not in folders
        break
    os.environ[places.VARIABLE] += "-other"

    assert _image("packages: words").digest == first


def test_a_changed_package_leaves_the_trees_of_others_as_they_are(index: Path) -> None:
    by_hand.make(index, "words", "1.0")
    by_hand.make(index, "greeting", "1.0")
    _image("packages: words==1.0, greeting==1.0")
    wheels = Path(os.environ[places.VARIABLE], "wheels")
    before = {path.name: path.stat().st_ino for path in wheels.iterdir()}
    by_hand.make(index, "words", "2.0")

    _image("packages: words==2.0, greeting==1.0")

    after = {path.name: path.stat().st_ino for path in wheels.iterdir()}
    assert before.items() <= after.items()
    assert len(after) == len(before) + 1
    packages = f"opt/environment/lib/python{_minor()}/site-packages/greeting/__init__.py"
    (tree,) = wheels.glob("greeting-1.0-*")
    groups = Path(os.environ[places.VARIABLE], "groups")
    same = [path.stat().st_ino for path in groups.glob(f"*/{packages}")]
    assert set(same) == {(tree / packages).stat().st_ino}, "a group holds the same files"


def test_wheels_that_have_a_file_in_common_are_each_whole(index: Path) -> None:
    shared = {"tests/__init__.py": "", "tests/same.py": ""}
    by_hand.make(index, "one", files={"one.py": "", **shared})
    by_hand.make(index, "two", files={"two.py": "", **shared})

    _image("packages: one, two")

    for tree in Path(os.environ[places.VARIABLE], "wheels").iterdir():
        assert list(tree.glob("opt/environment/lib/*/site-packages/tests/same.py")), tree


def test_a_lock_is_used_until_a_new_one_is_asked_for(index: Path) -> None:
    by_hand.make(index, "words", "1.0")
    _image("packages: words")
    by_hand.make(index, "words", "2.0")

    assert "words-1.0.dist-info" in _files(_image("packages: words"))
    assert "words-2.0.dist-info" in _files(environments.resolve("packages: words", fresh=True))
    assert "words-2.0.dist-info" in _files(_image("packages: words"))


def test_a_reference_with_a_lock_gives_the_wheels_of_the_lock(index: Path) -> None:
    by_hand.make(index, "words", "1.0")
    kept = locks.keep(environments.locked("packages: words"))
    by_hand.make(index, "words", "2.0")
    environments.resolve("packages: words", fresh=True)

    assert "words-1.0.dist-info" in _files(_image(f"packages: words@{kept}"))
    with pytest.raises(ImageError, match="is not kept here"):
        _image("packages: words@sha256:" + "0" * 64)


def test_a_wheel_with_another_hash_than_the_lock_says_is_not_taken(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_hand.make(index, "words", "1.0")
    kept = locks.keep(environments.locked("packages: words"))
    by_hand.make(index, "words", "1.0", files={"words/__init__.py": "evil = True\n"})
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "empty"))  # the true one has the true wheel

    with pytest.raises(ImageError, match=r"fetch `words-1\.0") as caught:
        _image(f"packages: words@{kept}")

    assert "hash" in str(caught.value).lower()
    assert not list(Path(os.environ[places.VARIABLE], "wheels").iterdir())


def test_hashes_of_a_file_choose_the_wheel_or_refuse(index: Path, tmp_path: Path) -> None:
    by_hand.make(index, "words", "1.0")
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"words==1.0 --hash=sha256:{'0' * 64}\n")

    with pytest.raises(ImageError, match="one of the given hashes"):
        _image(f"requirements:{requirements}")


def test_source_alone_is_refused_since_building_it_would_run_it(index: Path) -> None:
    (index / "words-1.0.tar.gz").write_bytes(b"no matter what")

    with pytest.raises(ImageError, match="run its code on this machine"):
        _image("packages: words")


def test_what_does_not_fit_together_is_one_line_with_the_reason(index: Path) -> None:
    by_hand.make(index, "words", "1.0")

    for text, why in (
        ("packages: words>2", "no version|only words"),
        ("packages: words, python<3.9", "it needs Python <3.9"),
        ("packages: missing", "missing"),
    ):
        with pytest.raises(ImageError, match=why) as caught:
            _image(text)
        assert "\n" not in str(caught.value)


def test_a_lock_for_another_python_is_not_used_silently(index: Path) -> None:
    by_hand.make(index, "words", "1.0")
    lock = environments.locked("packages: words")
    other = locks.decode(locks.encode(lock).replace(_minor().encode(), b"3.99"), "test")
    kept = locks.keep(other)

    with pytest.raises(ImageError, match=r"it is for Python 3\.99.*%sandbox update"):
        _image(f"packages: words@{kept}")


@pytest.mark.parametrize(
    "change",
    [
        (b'"name":"words"', b'"name":"../../words"'),
        (b'"version":"1.0"', b'"version":"1.0 --index-url=https://example.org"'),
        (b".whl", b".tar.gz"),
        (b'"wheels"', b'"wheels":[],"wheels"'),
        (b'"sha256":"', b'"sha256":"zz'),
        (b'"machine"', b'"url":"https://example.org","machine"'),
    ],
)
def test_a_forged_lock_is_refused(index: Path, change: tuple[bytes, bytes]) -> None:
    by_hand.make(index, "words", "1.0")
    data = locks.encode(environments.locked("packages: words")).replace(*change)

    try:
        found = locks.decode(data, "test")
    except ImageError:
        return
    assert found == environments.locked("packages: words"), "nothing of the forgery counts"


def test_byte_code_is_made_once_and_names_the_files_inside(index: Path) -> None:
    by_hand.make(index, "words", "1.0", files={"words.py": "x = 1\n", "broken.py": "x ="})
    before = _image("packages: words").layers
    bytecode.wait()

    layers = _image("packages: words").layers

    assert len(layers) == len(before) + 1
    (code,) = Path(layers[-1]).rglob("*.pyc")
    run = "import importlib.util,marshal,sys;d=open(sys.argv[1],'rb').read();" + (
        "assert d[:4]==importlib.util.MAGIC_NUMBER and d[4]==1;"
        "print(marshal.loads(d[16:]).co_filename)"
    )
    told = subprocess.run([sys.executable, "-c", run, code], capture_output=True, check=True)
    assert told.stdout.decode().strip().endswith("/site-packages/words.py")
    assert told.stdout.startswith(b"/opt/environment/")


def test_source_is_compiled_where_nothing_else_can_be_done() -> None:
    with compiling.Compiler() as compiler:
        assert compiler.compile(b"x = 1\n", "/a.py") is not None
        child = Path("/proc", str(compiler._pid))
        status = (child / "status").read_text()
        assert "Seccomp:\t2\n" in status
        assert "NoNewPrivs:\t1\n" in status
        assert sorted(os.listdir(child / "fd")) == ["0", "1"]
        for source in (b"x =", b"(" * 200_000, b"-" * 1_000_000 + b"1", b"\0", b"x" * (5 << 20)):
            assert compiler.compile(source, "/bad.py") is None
        os.kill(compiler._pid, signal.SIGKILL)  # as a file could do it
        assert compiler.compile(b"x = 1\n", "/a.py") is None
        assert compiler.compile(b"x = 1\n", "/a.py") is not None
        child = Path("/proc", str(compiler._pid))
    assert not child.exists()


def test_what_nobody_used_for_a_while_goes_and_what_a_container_stands_on_stays(
    index: Path,
) -> None:
    by_hand.make(index, "words", "1.0")
    by_hand.make(index, "large", "1.0")
    _image("packages: words, large")
    bytecode.wait()
    wheels = Path(os.environ[places.VARIABLE], "wheels")
    (words,), (large,) = wheels.glob("words-*"), wheels.glob("large-*")
    assert collecting.prune(older_than=0) == 0, "it was used just now"
    for tree in (words, large):
        os.utime(tree, (1, 1))
    held = os.open(words, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_SH)  # as a container does it

    assert collecting.prune() >= 0

    assert (words.exists(), large.exists()) == (True, False)
    os.close(held)
    assert {"words", "large"} <= _files(_image("packages: words, large"))


@pytest.mark.fault(12)
def test_what_was_used_in_a_time_to_come_counts_as_used_now(index: Path) -> None:
    """So it is neither thrown away after the clock went back by a year, nor kept for that year."""
    by_hand.make(index, "words", "1.0")
    _image("packages: words")
    bytecode.wait()
    caches = Path(os.environ[places.VARIABLE])
    (tree,) = (caches / "wheels").glob("words-*")
    note = caches / "channels/0123abcd.json"
    note.parent.mkdir(exist_ok=True)
    note.write_text("what is known of a channel")
    for path in (tree, note):
        os.utime(path, (time.time() + 365 * 86400,) * 2)

    collecting.prune(older_than=0)

    for path in (tree, note):
        assert 0 <= time.time() - path.stat().st_mtime < 60
        os.utime(path, (time.time() - 365 * 86400,) * 2)
    collecting.prune()
    assert (tree.exists(), note.exists()) == (False, False)
    assert "words" in _files(_image("packages: words")), "it is made again"


def test_uv_is_never_looked_for_on_the_path_or_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "uv").write_text("#!/bin/sh\ntouch ran\n")
    (tmp_path / "uv").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    uv.program.cache_clear()

    assert os.path.dirname(uv.program()) != str(tmp_path)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setattr(uv, "PLACES", ())
    monkeypatch.setattr(uv, "OF_THE_USER", ())
    monkeypatch.setattr(uv.sysconfig, "get_path", lambda _: "/nowhere")
    uv.program.cache_clear()
    with pytest.raises(HostLacks, match="pip install uv"):
        uv.program()
    uv.program.cache_clear()


def test_a_project_beside_the_notebook_does_not_configure_uv(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_hand.make(index, "words", "1.0")
    (tmp_path / "uv.toml").write_text("no-index = 'nonsense'\n")
    (tmp_path / "pyproject.toml").write_text("[tool.uv]\nno-index = 'nonsense'\n")
    monkeypatch.chdir(tmp_path)

    assert "words" in _files(_image("packages: words"))


# -- the kernel layer -----------------------------------------------------------------------------


def _with_packages(root: Path, *names: str) -> Image:
    """An Alpine-like image that has these packages, as `name-version`."""
    packages = _musl_root(root) / "usr/lib/python3.12/site-packages"
    packages.mkdir(parents=True)
    for each in names:
        name, version = each.split("-")
        (packages / f"{each}.dist-info").mkdir()
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (packages / f"{each}.dist-info/METADATA").write_text(text)
    return Image("dir:x", "sha256:" + "1" * 64, (str(root),), interpreter="/usr/bin/python3")


def test_the_kernel_layer_goes_behind_what_the_image_has(index: Path, tmp_path: Path) -> None:
    by_hand.make(index, "ipykernel", "7.0", requires=["traitlets>=5"])
    by_hand.make(index, "traitlets", "5.0")
    by_hand.make(index, "traitlets", "6.0")
    image = _with_packages(tmp_path / "root", "traitlets-5.0")

    added = kernel_layer.added(image)

    (mount,) = added.mounts
    assert mount["destination"] == "/opt/sandbox-kernel/last"
    assert "ro" in mount["options"]
    assert "traitlets" not in os.listdir(mount["source"]), "the image's own is used"
    assert "ipykernel" in os.listdir(mount["source"])
    assert added.digest != image.digest


def test_where_nothing_goes_with_the_images_packages_the_layer_is_whole_and_first(
    index: Path, tmp_path: Path
) -> None:
    by_hand.make(index, "ipykernel", "7.0", requires=["traitlets>=5"])
    by_hand.make(index, "traitlets", "5.0")
    image = _with_packages(tmp_path / "root", "traitlets-4.0")

    (mount,) = kernel_layer.added(image).mounts

    assert mount["destination"] == "/opt/sandbox-kernel/first"
    assert {"traitlets", "ipykernel"} <= set(os.listdir(mount["source"]))


def test_a_layer_that_was_made_for_another_image_is_taken_where_it_goes_with_the_packages(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_hand.make(index, "ipykernel", "7.0", requires=["traitlets>=5", "old; python_version<'3.9'"])
    by_hand.make(index, "traitlets", "6.0")
    (mount,) = kernel_layer.added(_with_packages(tmp_path / "bare")).mounts
    monkeypatch.setattr(uv, "run", lambda *_, **__: pytest.fail("nothing is to be asked"))

    (again,) = kernel_layer.added(_with_packages(tmp_path / "other", "traitlets-5.0")).mounts

    assert again == mount


@pytest.mark.parametrize(
    ("first", "second", "place", "there"),
    [
        ([], ["traitlets-4.0"], "first", True),
        (["traitlets-5.0"], [], "last", True),
        (["traitlets-5.0"], ["traitlets-4.0"], "first", True),
        ([], ["traitlets-nonsense"], "last", False),
    ],
)
def test_a_layer_that_does_not_go_with_an_image_is_not_taken_for_it(
    index: Path, tmp_path: Path, first: list[str], second: list[str], place: str, there: bool
) -> None:
    by_hand.make(index, "ipykernel", "7.0", requires=["traitlets>=5"])
    by_hand.make(index, "traitlets", "5.0")
    kernel_layer.added(_with_packages(tmp_path / "before", *first))

    (mount,) = kernel_layer.added(_with_packages(tmp_path / "root", *second)).mounts

    assert mount["destination"] == f"/opt/sandbox-kernel/{place}"
    assert ("traitlets" in os.listdir(mount["source"])) == there


def test_after_a_week_the_index_is_asked_for_a_layer_again(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_hand.make(index, "ipykernel", "7.0", requires=["traitlets>=5"])
    by_hand.make(index, "traitlets", "5.0")
    kernel_layer.added(_with_packages(tmp_path / "before"))
    by_hand.make(index, "ipykernel", "8.0", requires=["traitlets>=5"])
    passed = kept_kernels.SECONDS + 1

    def versions(name: str) -> list[str]:
        (mount,) = kernel_layer.added(_with_packages(tmp_path / name, f"{name}-1")).mounts
        return [each for each in os.listdir(mount["source"]) if each.startswith("ipykernel-")]

    assert versions("sooner") == ["ipykernel-7.0.dist-info"]
    now = time.time()
    monkeypatch.setattr(kept_kernels.time, "time", lambda: now + passed)
    assert versions("later") == ["ipykernel-8.0.dist-info"]


@pytest.mark.fault(12)
@pytest.mark.parametrize("years", [-1, 1])
def test_a_layer_that_was_chosen_a_year_off_is_not_trusted_and_the_index_is_asked_again(
    index: Path, tmp_path: Path, years: int
) -> None:
    """As the record looks after the clock went on by a year, or back by one."""
    by_hand.make(index, "ipykernel", "7.0", requires=["traitlets>=5"])
    by_hand.make(index, "traitlets", "5.0")
    kernel_layer.added(_with_packages(tmp_path / "before"))
    by_hand.make(index, "ipykernel", "8.0", requires=["traitlets>=5"])
    (record,) = Path(os.environ[places.VARIABLE], "locks").glob("layers-*.json")
    (kept,) = json.loads(record.read_text())
    record.write_text(json.dumps([{**kept, "chosen": kept["chosen"] + years * 365 * 86400}]))

    (mount,) = kernel_layer.added(_with_packages(tmp_path / "after", "after-1")).mounts

    assert "ipykernel-8.0.dist-info" in os.listdir(mount["source"])
    assert 0 <= time.time() - json.loads(record.read_text())[0]["chosen"] < 60


def test_an_image_with_ipykernel_gets_no_layer(tmp_path: Path) -> None:
    image = _with_packages(tmp_path / "root", "ipykernel-6.0")

    assert kernel_layer.added(image) is image


# -- kept in the store ----------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store of this test alone, with an Alpine-like image `alpine:1`."""
    monkeypatch.setenv("SANDBOX_KERNEL_IMAGES", str(tmp_path / "store"))
    store = Store.open()
    files: dict[str, bytes | str | None] = {
        "usr": None, "usr/bin": None, "lib": None, "usr/bin/python3.12": _elf(),
        "usr/bin/python3": "python3.12", "lib/ld-musl-x86_64.so.1": b"\x7fELF\0\x001.2.4\0rest",
    }  # fmt: skip
    made_images.put(store, "alpine:1", [made_images.layer(files)], env=["PATH=/usr/bin"])
    return store


def test_an_environment_is_kept_with_the_same_digest_whoever_makes_it(
    index: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_hand.make(index, "words", "1.0", scripts={"say": "words:main"})
    text = "packages: words on alpine:1"

    first = stored(store, reference.parse(text))
    monkeypatch.setenv(places.VARIABLE, str(tmp_path / "elsewhere"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "other"))
    second = stored(store, reference.parse(text))

    assert first.digest == second.digest
    base = store.find("alpine:1")
    assert first.manifest.layers[: len(base.manifest.layers)] == base.manifest.layers
    assert first.config.config is not None
    assert first.config.config.env is not None
    assert "PATH=/opt/environment/bin:/usr/bin" in first.config.config.env
    with Tree(images.resolve(first.digest).layers) as files:
        packages = files.names("/opt/environment/lib/python3.12/site-packages")
        assert files.read("/opt/environment/bin/say", 1000).startswith(b"#!/opt/environment/")
    assert packages == ["words", "words-1.0.dist-info"]


def test_an_environment_over_what_is_not_kept_is_not_kept_either(index: Path, store: Store) -> None:
    with pytest.raises(ImageError, match="name another base"):
        stored(store, reference.parse("packages: words"))


# -- what is installed ----------------------------------------------------------------------------

APK = "P:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\nU:https://musl.libc.org/\n\nP:busybox\nV:1.36\n\n"


def test_a_bill_of_materials_has_what_the_databases_say(tmp_path: Path) -> None:
    image = _with_packages(tmp_path, "six-1.16.0")
    (tmp_path / "lib/apk/db").mkdir(parents=True)
    (tmp_path / "lib/apk/db/installed").write_text(APK)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text("ID=alpine\n")

    document = sbom.document(image, tool="test-1")

    assert document["spdxVersion"] == "SPDX-2.3"
    urls = {
        each["externalRefs"][0]["referenceLocator"]
        for each in document["packages"]
        if "externalRefs" in each
    }
    assert urls == {
        "pkg:apk/alpine/musl@1.2.4-r2?arch=x86_64",
        "pkg:apk/alpine/busybox@1.36",
        "pkg:pypi/six@1.16.0",
    }
    named = {each["SPDXID"] for each in document["packages"]}
    assert len(named) == len(document["packages"])
    assert {each["relatedSpdxElement"] for each in document["relationships"]} == named
    (musl,) = [each for each in document["packages"] if each["name"] == "musl"]
    assert musl["licenseDeclared"] == "MIT"


def test_of_an_rpm_database_it_is_said_that_it_is_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "root/usr/lib/sysimage/rpm"
    place.mkdir(parents=True)
    (place / "rpmdb.sqlite").write_bytes(b"SQLite format 3\0")
    (tmp_path / "root/var/lib").mkdir(parents=True)
    (tmp_path / "root/var/lib/rpm").symlink_to("../../usr/lib/sysimage/rpm")
    why = "`/usr/lib/sysimage/rpm/rpmdb.sqlite`: the rpm database is not read"

    for words in ([], ["--format", "table"]):
        assert command.main(["sbom", *words, f"dir:{tmp_path}/root"]) == 0
        assert capsys.readouterr().err.count(why) == 1
    document = sbom.document(images.resolve(f"dir:{tmp_path}/root"), tool="test-1")
    assert document["creationInfo"]["comment"].startswith(why)


def test_a_database_that_is_a_link_out_of_the_image_is_not_read(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "status").write_text("Package: host\nStatus: install ok installed\nVersion: 1\n")
    (root / "var/lib/dpkg/status").symlink_to("../../../../status")

    with Tree((str(root),)) as files:
        assert installed.packages(files) == []


def test_resolving_asks_for_the_images_python_and_not_for_ours(index: Path) -> None:
    by_hand.make(index, "words", "1.0", tag="cp312-cp312-musllinux_1_2_x86_64")
    by_hand.make(index, "words", "2.0", tag="cp313-cp313-musllinux_1_2_x86_64")
    by_hand.make(index, "words", "3.0", tag="cp312-cp312-manylinux_2_28_x86_64")

    def chosen(python: Python) -> str:
        wanted = declared.Declared("packages: words", ("words",))
        return resolving.resolve(wanted, python).wheels[0].file

    assert chosen(MUSL) == "words-1.0-cp312-cp312-musllinux_1_2_x86_64.whl"
    assert chosen(GLIBC) == "words-3.0-cp312-cp312-manylinux_2_28_x86_64.whl"

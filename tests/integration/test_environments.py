"""Declared environments in containers: packages, heads of cells, kernels, pins.

Wheels are made by hand and found in a folder; only the kernel layer is of the real index, which the
environment of these tests came from too.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import kernels
import made_images
import nbformat
import pytest
import python_rootfs
import registries
import wheels
from IPython.core.interactiveshell import InteractiveShell
from notebooks_by_hand import execute
from traitlets.config import Config

import sandbox_kernel
from sandbox_kernel import image, policy
from sandbox_kernel.errors import ImageError, InvalidOption, NotAllowed
from sandbox_kernel.image import environments, reference
from sandbox_kernel.image.environments import (
    bytecode,
    declared,
    kernel_layer,
    places,
    resolving,
)
from sandbox_kernel.image.environments import lock as locks
from sandbox_kernel.image.environments import python as pythons
from sandbox_kernel.image.environments.python import Python
from sandbox_kernel.image.pins import Pins, decode
from sandbox_kernel.image.registry import push
from sandbox_kernel.image.store import Store

HEAD = '# /// script\n# dependencies = ["words"]\n# ///\n'
SAY = "import sys, words; print(words.version, sys.prefix)"


@pytest.fixture(scope="module", autouse=True)
def _environments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What these tests make of the real index is gone with them, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(places.VARIABLE, str(tmp_path_factory.mktemp("environments")))
        yield


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of wheels that is all that uv knows, and caches of this test alone."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheels.make(folder, "words", "1.0")
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv(places.VARIABLE, str(tmp_path / "environments"))
    yield folder
    bytecode.end()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Debian-like root file system with Python and without ipykernel."""
    return python_rootfs.make(tmp_path_factory.mktemp("root"))


@pytest.mark.everybody
def test_packages_are_there_and_nothing_else_of_this_environment_is(index: Path) -> None:
    result = sandbox_kernel.run(SAY, image="packages: words").check()

    assert result.stdout == "1.0 /opt/environment\n"
    gone = sandbox_kernel.run("import msgspec", image="packages: words")
    assert gone.error is not None
    assert gone.error.name == "ModuleNotFoundError"


def test_the_head_of_a_cell_brings_its_packages(index: Path) -> None:
    result = sandbox_kernel.run(HEAD + SAY).check()

    assert result.stdout == "1.0 /opt/environment\n"
    assert result.plan.image == "packages: words"
    assert result.plan.sources["image"] == "the cell's head"


def test_a_file_of_requirements_and_a_project_are_environments_too(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "requirements.txt").write_text("words==1.0\n")
    (tmp_path / "pyproject.toml").write_text('[project]\nname="x"\ndependencies=["words"]\n')

    for named in ("requirements:requirements.txt", "pyproject:."):
        assert sandbox_kernel.run(SAY, image=named).check().stdout.startswith("1.0 ")


@pytest.mark.everybody
def test_an_environment_stands_on_another_image(index: Path, root: Path) -> None:
    code = f"{SAY}; import os; print(os.path.realpath(sys.executable), os.listdir('/var/lib'))"

    result = sandbox_kernel.run(code, image=f"packages: words on dir:{root}").check()

    assert result.stdout.startswith("1.0 /opt/environment\n/usr/bin/python3.")
    assert result.stdout.endswith("['dpkg']\n")


@pytest.mark.everybody
def test_what_code_writes_to_the_environment_is_gone_with_its_container(index: Path) -> None:
    code = "import words; open(words.__file__, 'w').write('version = 2'); print('written')"

    assert sandbox_kernel.run(code, image="packages: words").check().stdout == "written\n"

    assert sandbox_kernel.run(SAY, image="packages: words").check().stdout.startswith("1.0 ")


def test_a_cell_with_a_head_needs_a_container_of_its_own(index: Path) -> None:
    with (
        sandbox_kernel.Sandbox() as sandbox,
        pytest.raises(InvalidOption, match="has its image already"),
    ):
        sandbox.run(HEAD + SAY)


def test_the_head_of_a_cell_is_held_to_the_ceilings(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = tmp_path / "configuration/sandbox-kernel/config.toml"
    configuration.parent.mkdir(parents=True)
    configuration.write_text('[ceiling]\nimage = ["host"]\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    shell = _shell()

    with pytest.raises(NotAllowed, match="packages: words"):
        shell.run_cell_magic("container", "", HEAD + SAY)


def _shell() -> InteractiveShell:
    config = Config()
    config.HistoryManager.enabled = False
    shell = InteractiveShell(config=config)
    sandbox_kernel.load_ipython_extension(shell)
    return shell


def test_a_cell_magic_takes_packages_without_quotes(
    index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = _shell()

    shell.run_cell_magic("container", "packages: words>=1, words<2 --memory 256m", SAY)

    assert capsys.readouterr().out.startswith("1.0 /opt/environment")


@pytest.mark.everybody
def test_a_kernel_starts_in_an_image_without_ipykernel(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    with kernels.started(image=f"dir:{root}") as kernel:
        reply, outputs = kernel.run(
            "import ipykernel, sys; print(ipykernel.__file__, sys.executable)"
        )
        told = str([message["content"].get("text") for message in outputs])
        refused, _ = kernel.run("open(ipykernel.__file__, 'w')")

    assert reply["content"]["status"] == "ok", reply["content"]
    assert "/opt/sandbox-kernel/last/ipykernel/__init__.py /usr/bin/python3" in told
    assert refused["content"]["ename"] == "OSError", "the layer can't be written to"


@pytest.mark.parametrize("libc", [("glibc", (2, 36)), ("musl", (1, 2))], ids=["glibc", "musl"])
@pytest.mark.parametrize("minor", range(pythons.OLDEST[1], pythons.NEWEST[1] + 1))
def test_there_is_a_kernel_layer_for_each_python_and_c_library(
    minor: int, libc: tuple[Literal["glibc", "musl"], tuple[int, int]]
) -> None:
    python = Python(f"/usr/bin/python3.{minor}", (3, minor), *libc, "x86_64")
    wanted = declared.Declared("ipykernel of the test", (kernel_layer.WANTED,))

    lock = resolving.lock(wanted, python)
    trees = environments.wheels.trees(lock.wheels, python, prefix=kernel_layer.PLACE)

    below = f"{kernel_layer.PLACE}/lib/python3.{minor}/site-packages".lstrip("/")
    there = {name for tree in trees for name in os.listdir(Path(tree, below))}
    assert {"ipykernel", "zmq", "tornado", "traitlets", "jupyter_client"} <= there
    native = [wheel.file for wheel in lock.wheels if not wheel.file.endswith("-any.whl")]
    assert native
    sign = {"glibc": "manylinux", "musl": "musllinux"}[python.libc]
    assert all(sign in name for name in native), native
    parts = {part for tree in trees for path in Path(tree).rglob("*.so") for part in path.suffixes}
    tagged = {part for part in parts if part.startswith(".cpython-")}
    # before 3.11 a Python of musl had `gnu` in these names too
    assert all(part.startswith(f".cpython-3{minor}-x86_64-linux-") for part in tagged), tagged


def test_an_image_without_python_has_no_kernel_and_runs_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()

    with pytest.raises(ImageError, match=r"choose an image with Python 3\.9"):
        image.for_kernel(image.resolve(f"dir:{empty}"))
    with kernels.Starting(image=f"dir:{empty}").ready() as kernel:
        reply, _ = kernel.run("1")
    assert reply["content"]["ename"] == "ImageError"
    assert "--program" in reply["content"]["evalue"]
    (empty / "says").write_bytes(made_images.program())
    (empty / "says").chmod(0o755)
    result = sandbox_kernel.run("", image=f"dir:{empty}", program="/says")
    assert result.check().stdout == "it runs\n"


def test_a_notebook_runs_in_what_a_name_meant_until_it_is_updated(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, named = tmp_path / "notebook.ipynb", "packages: words"

    def run(cell: str) -> list[str]:
        return execute(path, kernels.CELLS, named, cell)

    assert run(SAY) == ["1.0 /opt/environment\n"]
    wheels.make(index, "words", "2.0")
    # As on another machine: only the notebook is the same.
    monkeypatch.setenv(places.VARIABLE, str(tmp_path / "elsewhere"))
    assert run(SAY) == ["1.0 /opt/environment\n"]
    (told,) = run("%sandbox update")
    assert "words 1.0 -> 2.0" in told
    assert run(SAY) == ["2.0 /opt/environment\n"]
    pinned = nbformat.read(path, 4).metadata.language_info.sandbox_kernel.images[named]
    assert [wheel.version for wheel in pinned.lock.wheels] == ["2.0"]
    assert not any("url" in wheel for wheel in pinned.lock.wheels)


def test_a_kernel_of_its_own_is_pinned_too_and_says_what_an_update_changes(tmp_path: Path) -> None:
    path, named, then = tmp_path / "notebook.ipynb", "packages: six", " before 2021-06-01"
    say = "import six; print(six.__version__)"
    assert execute(path, kernels.ARGV, named + then, say) == ["1.16.0\n"]
    notebook = nbformat.read(path, 4)
    images = notebook.metadata.language_info.sandbox_kernel.images
    images[named] = images.pop(named + then)
    nbformat.write(notebook, path)

    assert execute(path, kernels.ARGV, named, say) == ["1.16.0\n"]
    told, _ = execute(path, kernels.ARGV, named, "%sandbox update", "1")

    assert "six 1.16.0 -> " in told
    assert execute(path, kernels.ARGV, named, say) != ["1.16.0\n"]


def test_a_tag_means_what_it_meant_until_it_is_updated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANDBOX_KERNEL_IMAGES", str(tmp_path / "store"))
    store = Store.open()
    with registries.registry(tmp_path / "registry") as served:
        name = f"{served.authority}/team/small:1"
        pushed = []
        for note in (b"first\n", b"second\n"):
            made = made_images.small(store, name, note=note)
            pushed.append(push(store, made, reference.registry(name)))
            if len(pushed) == 1:
                pins = Pins()
                pins.record(name)
        monkeypatch.setenv("SANDBOX_KERNEL_IMAGES", str(tmp_path / "elsewhere"))

        before = image.resolve(pins.pinned(name))
        told = pins.update(name)
        after = image.resolve(pins.pinned(name))

    assert (before.digest, after.digest) == (pushed[0], pushed[1])
    assert told[0].startswith(f"{name}: {pushed[0][:19]} -> {pushed[1][:19]}")
    assert "  1 of 2 layers are new" in told


def test_names_in_a_containerfile_mean_what_they_meant_until_they_are_updated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(places.VARIABLE, str(tmp_path / "environments"))
    monkeypatch.setenv("SANDBOX_KERNEL_IMAGES", str(tmp_path / "maker"))
    allowed = tmp_path / "configuration/sandbox-kernel/config.toml"
    allowed.parent.mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    (tmp_path / "context").mkdir()
    store, asked = Store.open(), policy.plan("command line", image="build:context").image
    made_images.small(store, "here:1", note=b"made here\n")
    with registries.registry(tmp_path / "registry") as served:
        allowed.write_text(f'[ceiling]\nimage = ["build:*", "here*", "{served.authority}/*"]\n')
        below, beside = (f"{served.authority}/team/{name}:1" for name in ("below", "beside"))

        def push_both(note: str) -> list[str]:
            named = [(below, f"{note} below\n"), (beside, f"{note} beside\n")]
            return [
                push(store, made_images.small(store, name, note=text.encode()),
                     reference.registry(name))
                for name, text in named
            ]  # fmt: skip

        def build(pins: Pins) -> str:
            found = image.resolve(pins.pinned(asked))
            pins.record(asked)
            notes = [Path(layer, name) for layer in found.layers for name in ("etc/note", "note")]
            return "".join(note.read_text() for note in notes if note.exists())

        def containerfile(more: str = "") -> None:
            (tmp_path / "context/Containerfile").write_text(
                f"FROM {below}\nCOPY --from={beside} /etc/note /note\n{more}"
            )

        containerfile()
        before = push_both("first")
        monkeypatch.setenv("SANDBOX_KERNEL_IMAGES", str(tmp_path / "first"))
        pins = Pins()
        assert build(pins) == "first below\nfirst beside\n"
        kept = pins.metadata()["sandbox_kernel"]
        (pin,) = kept["images"].values()
        assert list(kept["images"]) == ["build:context"]
        assert [(each["name"], each["digest"]) for each in pin["bases"]["names"]] == [
            (below, before[0]), (beside, before[1]),
        ]  # fmt: skip

        store = Store.open(str(tmp_path / "maker"))
        after = push_both("second")
        # As on another machine: only the notebook and the folder are the same.
        monkeypatch.setenv("SANDBOX_KERNEL_IMAGES", str(tmp_path / "second"))
        monkeypatch.setenv(places.VARIABLE, str(tmp_path / "elsewhere"))
        pins = Pins(decode(kept, "test"))
        assert build(pins) == "first below\nfirst beside\n"
        assert pins.metadata()["sandbox_kernel"] == kept

        told = pins.update(asked)
        assert told[1:] == [
            f"  {name} {was[:19]} -> {now[:19]}"
            for name, was, now in zip((below, beside), before, after, strict=True)
        ]
        assert build(pins) == "second below\nsecond beside\n"

        # A name that comes new, and one of an image that was made here: it is what it is here.
        made_images.small(Store.open(), "here:1", note=b"made here\n")
        third = f"{served.authority}/team/third:1"
        push(store, store.find(beside), reference.registry(third))
        containerfile(f"COPY --from={third} /etc/note /note\nCOPY --from=here:1 /etc/note /x\n")
        build(pins)
        (pin,) = pins.metadata()["sandbox_kernel"]["images"].values()
        assert [each["name"] for each in pin["bases"]["names"]] == [below, beside, third]
        assert [each["digest"] for each in pin["bases"]["names"]][:2] == after

    (tmp_path / "context/Containerfile").write_text("FROM scratch\nLABEL a=b\n")
    assert pins.update(asked) == [
        f"{asked}: built anew; it names no image of a registry that could move"
    ]


def test_a_notebook_of_a_build_keeps_what_it_was_built_on(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(places.VARIABLE, str(tmp_path / "environments"))
    monkeypatch.setenv("SANDBOX_KERNEL_IMAGES", str(tmp_path / "maker"))
    allowed = tmp_path / "configuration/sandbox-kernel/config.toml"
    allowed.parent.mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    store, path = Store.open(), tmp_path / "notebook.ipynb"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(root, ".")
    with registries.registry(tmp_path / "registry") as served:
        name = f"{served.authority}/team/python:3"
        allowed.write_text(f'[ceiling]\nimage = ["build:{tmp_path}/*", "{served.authority}/*"]\n')

        def push_python(note: bytes) -> None:
            layers = [packed.getvalue(), made_images.layer({"etc/note": note})]
            push(store, made_images.put(store, name, layers), reference.registry(name))

        def run(cell: str) -> list[str]:
            return execute(path, kernels.CELLS, f"build:{tmp_path}/context", cell)

        (tmp_path / "context").mkdir()
        (tmp_path / "context/Containerfile").write_text(f"FROM {name}\nENV WORD=set\n")
        say = "import os; print(open('/etc/note').read() + os.environ['WORD'])"
        push_python(b"first ")
        monkeypatch.setenv("SANDBOX_KERNEL_IMAGES", str(tmp_path / "first"))
        assert run(say) == ["first set\n"]
        push_python(b"second ")
        monkeypatch.setenv("SANDBOX_KERNEL_IMAGES", str(tmp_path / "second"))
        assert run(say) == ["first set\n"]
        (told,) = run("%sandbox update")
        assert f"  {name} sha256:" in told
        assert run(say) == ["second set\n"]


@pytest.mark.parametrize("argv", [kernels.ARGV, kernels.CELLS], ids=["sandbox", "cells"])
def test_a_lock_for_another_python_is_mended_by_an_update(
    index: Path, tmp_path: Path, argv: list[str]
) -> None:
    path, named = tmp_path / "notebook.ipynb", "packages: words"
    execute(path, kernels.CELLS, named, SAY)
    notebook = nbformat.read(path, 4)
    pin = notebook.metadata.language_info.sandbox_kernel.images[named]
    pin.lock.python = "3.99"
    pin.digest = locks.decode(json.dumps(pin.lock), "test").digest
    nbformat.write(notebook, path)

    refused, told = execute(path, argv, named, SAY, "%sandbox update")

    assert "it is for Python 3.99" in refused
    assert "Python 3.99 -> 3." in told


def test_pins_that_are_not_as_they_must_be_are_said_to_be_so(index: Path, tmp_path: Path) -> None:
    path = tmp_path / "notebook.ipynb"
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["language_info"] = {
        "name": "python",
        "sandbox_kernel": {"images": {"packages: words": {"digest": "../../etc"}}},
    }
    nbformat.write(notebook, path)

    (told,) = execute(path, kernels.CELLS, "packages: words", SAY)

    assert "metadata.language_info.sandbox_kernel" in told
    assert "remove it there" in told


def test_the_command_says_what_is_installed(root: Path, index: Path) -> None:
    command = [str(Path(sys.executable).with_name("sandbox-kernel")), "sbom"]
    reference = f"packages: words on dir:{root}"

    done = subprocess.run([*command, reference], capture_output=True, check=True)

    named = {each["name"]: each["versionInfo"] for each in json.loads(done.stdout)["packages"]}
    assert named["python3-minimal"] == "3.11.2-1"
    assert named["words"] == "1.0"
    assert "gone" not in named

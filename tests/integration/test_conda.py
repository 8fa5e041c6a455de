"""Conda environments in containers: a Python of their own, programs, kernels, pins.

The channel is a folder of packages made by hand; its Python is this system's, moved to the prefix
of the environment. Only the kernel layer is of the real index.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import conda_channels
import kernels
import nbformat
import pytest
import python_rootfs
from conda_channels import PLACEHOLDER, Channel
from notebooks_by_hand import execute

import sandbox_kernel
from sandbox_kernel import image
from sandbox_kernel.errors import HostLacks, ImageError
from sandbox_kernel.image.environments import bytecode, environment, places
from sandbox_kernel.image.environments.conda import rattler

IMAGE = "conda:environment.yml"
WORDS = "site-packages/words/__init__.py"
SAY = "import sys, words; print(words.version, sys.prefix)"
RUN = "import subprocess; print(subprocess.run({}, capture_output=True, text=True).stdout)"


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Channel:
    """A channel with a Python, which takes a second to make."""
    made = Channel(tmp_path_factory.mktemp("made") / "channel")
    conda_channels.add_python(made)
    return made


@pytest.fixture
def channel(_made: Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Channel]:
    """The only channel of this user, and the folder of an environment with a Python and `words`."""
    made = _made.copied(tmp_path / "channel")
    _add_words(made, "1.0")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv(places.VARIABLE, str(tmp_path / "environments"))
    conda_channels.configure(tmp_path / "configuration", team=made.address)
    monkeypatch.chdir(tmp_path)
    _declare("python", "words")
    yield made
    bytecode.end()


def _add_words(channel: Channel, version: str) -> None:
    text = f"version = {version!r}\ndef main():\n    print('said', version)\n"
    channel.add("words", version, noarch="python", files={WORDS: text}, depends=["python >=3.8"],
                entry_points=["say = words:main"])  # fmt: skip


def _declare(*specs: str, channel: str = "team") -> None:
    lines = ["name: of-a-test", "channels:", f"  - {channel}", "dependencies:"]
    Path("environment.yml").write_text("\n".join([*lines, *(f"  - {spec}" for spec in specs), ""]))


@pytest.mark.everybody
def test_a_cell_runs_in_the_python_of_the_environment(channel: Channel) -> None:
    result = sandbox_kernel.run(f"{SAY}; print(sys.executable)", image=IMAGE).check()

    assert result.stdout == "1.0 /opt/environment\n/opt/environment/bin/python\n"
    gone = sandbox_kernel.run("import msgspec", image=IMAGE)
    assert gone.error is not None
    assert gone.error.name == "ModuleNotFoundError", "nothing else of this environment is there"


def test_programs_find_what_lies_at_their_prefix(channel: Channel, tmp_path: Path) -> None:
    tell = f"#!{PLACEHOLDER}/bin/python\nprint(open('{PLACEHOLDER}/share/words').read())\n"
    files: dict[str, str | bytes] = {
        "bin/place": conda_channels.program(tmp_path),
        "share/words": "of the package\n",
        "bin/tell": tell,
    }
    modes = {"bin/place": "binary", "bin/tell": "text"}
    channel.add("place", files=files, placeholders=modes, kind=".tar.bz2")
    _declare("words", "place")

    for program, said in (
        ("say", "said 1.0\n"),
        ("place", "/opt/environment/share/words\n"),
        ("tell", "of the package\n\n"),
    ):
        result = sandbox_kernel.run(RUN.format([program]), image=IMAGE).check()
        assert result.stdout == f"{said}\n", program


@pytest.mark.everybody
def test_an_environment_stands_on_another_image(channel: Channel, tmp_path: Path) -> None:
    root = python_rootfs.make(tmp_path / "root")
    code = f"{SAY}; import os; print(os.listdir('/var/lib'))"

    result = sandbox_kernel.run(code, image=f"{IMAGE} on dir:{root}").check()

    assert result.stdout == "1.0 /opt/environment\n['dpkg']\n"


def test_a_kernel_starts_in_an_environment_without_ipykernel(channel: Channel) -> None:
    with kernels.started(image=IMAGE) as kernel:
        reply, outputs = kernel.run(f"import ipykernel; print(ipykernel.__file__); {SAY}")
        told = "".join(str(message["content"].get("text", "")) for message in outputs)

    assert reply["content"]["status"] == "ok", reply["content"]
    assert "/opt/sandbox-kernel/" in told
    assert "1.0 /opt/environment\n" in told


@pytest.mark.everybody
def test_what_code_writes_to_the_environment_is_gone_with_its_container(channel: Channel) -> None:
    code = "import words; open(words.__file__, 'w').write('version = 2'); print('written')"

    assert sandbox_kernel.run(code, image=IMAGE).check().stdout == "written\n"

    assert sandbox_kernel.run(SAY, image=IMAGE).check().stdout.startswith("1.0 ")


def test_a_notebook_keeps_its_packages_until_it_is_updated(
    channel: Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "notebook.ipynb"

    assert execute(path, kernels.CELLS, IMAGE, SAY) == ["1.0 /opt/environment\n"]
    _add_words(channel, "2.0")
    # As on another machine: only the notebook is the same, and the name of the channel.
    monkeypatch.setenv(places.VARIABLE, str(tmp_path / "elsewhere"))
    assert execute(path, kernels.CELLS, IMAGE, SAY) == ["1.0 /opt/environment\n"]
    (told,) = execute(path, kernels.CELLS, IMAGE, "%sandbox update")
    assert "words 1.0 -> 2.0" in told
    assert execute(path, kernels.CELLS, IMAGE, SAY) == ["2.0 /opt/environment\n"]
    pinned = nbformat.read(path, 4).metadata.language_info.sandbox_kernel.images[IMAGE]
    found = {each.name: each for each in pinned.conda.packages}
    assert found["words"].version == "2.0"
    assert found["words"].channel == "team"
    assert str(channel.folder) not in str(pinned)


def test_a_pin_with_another_hash_is_refused_in_the_cell(channel: Channel, tmp_path: Path) -> None:
    path = tmp_path / "notebook.ipynb"
    execute(path, kernels.CELLS, IMAGE, SAY)
    channel.add("words", noarch="python", files={WORDS: "version = 'evil'\n"})
    os.environ[places.VARIABLE] += "-elsewhere"

    (told,) = execute(path, kernels.CELLS, IMAGE, SAY)

    assert "ImageError" in told
    assert "larger than its lock says" in told or "its sha256 is" in told
    assert "evil" not in told


def test_a_changed_package_changes_its_layer_and_no_other(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "LARGE", 1)  # every package is a layer of its own
    before = image.resolve(IMAGE).layers
    _add_words(channel, "2.0")
    _declare("python", "words >=2")

    after = image.resolve(IMAGE).layers

    names = [Path(layer).name.rpartition("-")[0] for layer in set(after) - set(before)]
    assert "words-2.0" in names
    assert not [name for name in names if name.startswith("python")]
    assert sandbox_kernel.run(SAY, image=IMAGE).check().stdout.startswith("2.0 ")


@pytest.mark.everybody
def test_a_hostile_package_is_told_in_one_line_and_leaves_nothing(
    channel: Channel, tmp_path: Path
) -> None:
    evil = f"../../../../{tmp_path}/evil"
    said = [{"_path": evil, "path_type": "hardlink"}]
    channel.add("hostile", members=[(conda_channels.member(evil), b"")], paths=said)
    _declare("hostile", "words")

    with pytest.raises(ImageError, match=r"install `hostile-1\.0-0\.conda`.*`\.\.`") as caught:
        sandbox_kernel.run("1", image=IMAGE)

    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("evil"))
    assert not list((tmp_path / "environments/conda").iterdir())


@pytest.mark.everybody
def test_scripts_of_packages_do_not_run_and_the_result_says_so(
    channel: Channel, tmp_path: Path
) -> None:
    text = f"#!/bin/sh\ntouch {tmp_path}/ran {PLACEHOLDER}/ran\n"
    channel.add("scripted", files={"bin/.scripted-post-link.sh": text})
    _declare("scripted", "words")

    result = sandbox_kernel.run("import os; print(os.listdir('/opt/environment'))", image=IMAGE)

    assert "ran" not in result.check().stdout
    assert not (tmp_path / "ran").exists()
    assert any("scripts of scripted" in notice for notice in result.notices)


def test_a_channel_that_is_not_the_users_is_refused_with_line_and_setting(
    channel: Channel,
) -> None:
    _declare("words", channel="https://evil.example/channel")

    with pytest.raises(ImageError, match=r"line 3 of .*environment\.yml.*\[conda\.channels\]"):
        sandbox_kernel.run("1", image=IMAGE)


def test_without_the_extra_the_message_has_the_command(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(rattler.LIBRARIES, "rattler_that_is_not_there", "py-rattler")

    with pytest.raises(HostLacks, match=r"-m pip install 'sandbox-kernel\[conda\]'"):
        sandbox_kernel.run("1", image=IMAGE)

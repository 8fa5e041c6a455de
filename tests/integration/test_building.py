"""Builds: what the syntax does, what the cache saves, how failures are told; for every user."""

from __future__ import annotations

import errno
import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import built_images
import debian_root
import pytest
import python_rootfs
import registries
import wheels
from built_images import built, files
from commands import COMMAND, command

from sandbox_kernel import policy, settings
from sandbox_kernel.building import collecting
from sandbox_kernel.building.events import Event, StepDone, StepOutput, StepStarted
from sandbox_kernel.container import Container, ProcessSpec
from sandbox_kernel.errors import BuildFailed, ContainerfileError, ImageError, InvalidOption
from sandbox_kernel.image import reference, registry
from sandbox_kernel.image.store import Store

ROOT = "FROM scratch AS base\nCOPY root /\n"


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    built_images.make_root(folder / "root")
    (folder / ".dockerignore").write_text("ignored\n")
    (folder / "one.txt").write_text("one\n")
    (folder / "sub/deep").mkdir(parents=True)
    (folder / "sub/deep/a.py").write_text("a\n")
    (folder / "sub/deep/a.pyc").write_text("compiled\n")
    (folder / "sub/b.py").write_text("b\n")
    return folder


def told(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, StepOutput))


def cached(events: list[Event]) -> list[bool]:
    return [event.cached for event in events if isinstance(event, StepDone)]


def text_of(store: Store, image: object, path: str) -> str:
    """A small file of an image, read in a container of it."""
    plan = policy.plan(settings.COMMAND_LINE, image=image.digest)  # type: ignore[attr-defined]
    read, write = os.pipe()
    with Container.create(plan) as made:
        process = made.run(ProcessSpec(argv=("/bin/cat", path), descriptors={1: write}))
        os.close(write)
        with open(read, "rb") as out:
            text = out.read().decode()
        process.wait(20)
        process.close()
    return text


def test_here_documents_are_scripts_files_and_input(store: Store, context: Path) -> None:
    text = (
        ROOT + "ENV WHO=world\nRUN <<EOF\nset -e\necho one\necho $WHO\nEOF\n"
        "RUN <<EOF\n#!/bin/sed -e 1d\nkept $WHO\nEOF\n"
        "RUN cat <<A > /both; cat <<'B' >> /both\nfirst $WHO\nA\nsecond $WHO\nB\n"
        "COPY <<X <<-'Y' /etc/made/\nhello $WHO\nX\n\t$WHO\n\tY\n"
    )
    image, events = built(store, context, text)
    assert told(events) == "one\nworld\nkept $WHO\n"
    assert text_of(store, image, "/both") == "first world\nsecond $WHO\n"
    assert text_of(store, image, "/etc/made/X") == "hello world\n"
    assert text_of(store, image, "/etc/made/Y") == "$WHO\n"


@pytest.mark.everybody
def test_the_options_of_copy(store: Store, context: Path) -> None:
    text = ROOT + (
        "COPY --exclude=*.pyc --exclude=**/*.pyc sub /excluded/\n"
        "COPY --parents sub/deep/a.py sub/b.py /parents/\n"
        "COPY --parents ./sub/./deep/a.py /pivot/\n"
        "RUN ln -s /tmp /linked\n"
        "COPY --link --chmod=600 --chown=app:staff one.txt /linked/\n"
        "COPY --chmod=0711 --chown=1000 sub /modes\n"
    )
    image, _ = built(store, context, text)
    tree = files(store, image)
    assert "excluded/deep/a.py" in tree and "excluded/deep/a.pyc" not in tree
    assert {"parents/sub/deep/a.py", "parents/sub/b.py", "pivot/deep/a.py"} <= tree.keys()
    linked = tree["linked/one.txt"]  # a layer by itself: what lies below is not followed
    assert (linked.mode, linked.uid, linked.gid) == (0o600, 1000, 50)
    assert "tmp/one.txt" not in tree
    assert tree["modes/deep"][1:4] == (0o711, 1000, 1000)


@pytest.mark.everybody
def test_names_of_one_file_stay_so_without_those_that_are_left_out(
    store: Store, context: Path
) -> None:
    (context / "links").mkdir()
    (context / "links/a").write_text("one file\n")
    for name in ("b", "c"):
        (context / "links" / name).hardlink_to(context / "links/a")
    text = "FROM scratch\nCOPY --exclude=a --chmod=0600 links /d\n"
    tree = files(store, built(store, context, text)[0])
    assert tree["d/b"].names == ("d/b", "d/c") and tree["d/b"].mode == 0o600
    # What is known of a step tells a name of a file from a file with the same content.
    (context / "links/c").unlink()
    (context / "links/c").write_text("one file\n")
    assert files(store, built(store, context, text)[0])["d/b"].names == ()


def test_names_of_one_file_that_come_to_be_one_name(store: Store, context: Path) -> None:
    """A link in the image leads both of their folders to the same place."""
    for name in ("one", "two"):
        (context / "links" / name).mkdir(parents=True)
    (context / "links/one/f").write_text("one file\n")
    (context / "links/two/f").hardlink_to(context / "links/one/f")
    text = ROOT + "RUN mkdir -p /d/one && ln -s one /d/two\nCOPY links /d\n"
    tree = files(store, built(store, context, text)[0])
    assert tree["d/one/f"].kind == "file" and tree["d/two"].kind == "link"


def test_a_context_may_lie_where_files_have_no_extended_attributes(
    store: Store, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, **__: object) -> list[str]:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "listxattr", none)
    image, _ = built(store, context, "FROM scratch\nCOPY one.txt sub /\n")
    assert {"one.txt", "b.py"} <= files(store, image).keys()


def test_what_add_is_told_to_unpack_has_to_be_an_archive(store: Store, context: Path) -> None:
    text = b"no archive, but longer than the header of one\n" * 20
    (context / "text").write_bytes(text)
    (context / "text.gz").write_bytes(gzip.compress(text))
    for name in ("text", "text.gz"):
        with pytest.raises(BuildFailed, match=rf"line 2.*unpack `{name}`"):
            built(store, context, f"FROM scratch\nADD --unpack {name} /")
        image, _ = built(store, context, f"FROM scratch\nADD {name} /")
        assert list(files(store, image)) == [name]


def test_a_linked_copy_is_the_same_layer_on_any_base(store: Store, context: Path) -> None:
    text = ROOT + "%sCOPY --link --chown=0:0 one.txt /one"
    layers = [
        built(store, context, text % more)[0].manifest.layers[-1] for more in ("", "RUN touch /x\n")
    ]
    assert layers[0] == layers[1]


@pytest.mark.everybody
def test_the_mounts_of_run(store: Store, context: Path) -> None:
    mount = "--mount=type="
    text = ROOT + (
        f"RUN {mount}bind,target=/ctx touch /ctx/new 2>/dev/null || cat /ctx/sub/b.py\n"
        f"RUN {mount}bind,target=/ctx,rw echo dropped > /ctx/new && cat /ctx/new /ctx/one.txt\n"
        f"RUN {mount}bind,source=one.txt,target=/file cat /file\n"
        f"RUN {mount}tmpfs,target=/t,size=1m dd if=/dev/zero of=/t/x bs=1024 count=3000 "
        "2>/dev/null || echo full\n"
        f"RUN {mount}cache,target=/c,id=x echo kept >> /c/log\n"
        f"RUN {mount}cache,target=/c,id=x,mode=0700 wc -l < /c/log && stat -c %a /c\n"
        f"RUN {mount}cache,target=/c,id=x,ro touch /c/x 2>/dev/null || echo read-only\n"
        "RUN ls -d /ctx /file /t /c 2>/dev/null || true\n"
    )
    image, events = built(store, context, text)
    assert told(events).startswith("b\ndropped\none\none\nfull\n")
    assert told(events).endswith("1\n700\nread-only\n")
    tree = files(store, image)
    assert not {"ctx", "file", "t", "c"} & tree.keys()
    _, again = built(store, context, text.replace("wc -l", "echo new; wc -l"))
    assert "new\n1\n" in told(again)  # what was cached was not done again, the cache is still there


@pytest.mark.everybody
def test_only_what_depends_on_a_changed_file_is_done_again(store: Store, context: Path) -> None:
    text = ROOT + (
        "COPY one.txt /one\nRUN cat /one > /two\nFROM base AS other\nCOPY sub /sub\n"
        "RUN ls /sub\nFROM base\nCOPY --from=0 /etc/passwd /p\nCOPY --from=other /sub /s"
    )
    first, _ = built(store, context, text)
    same, events = built(store, context, text)
    assert same.digest == first.digest and all(cached(events))
    (context / "sub/b.py").write_text("changed\n")
    (context / "ignored").write_text("new")
    changed, events = built(store, context, text)
    names = [(e.stage, e.number) for e in events if isinstance(e, StepDone) and not e.cached]
    assert sorted(names) == [("2", 2), ("other", 1), ("other", 2)]
    assert changed.digest != first.digest
    os.utime(context / "one.txt", (1, 1))  # a time alone is no change
    assert all(cached(built(store, context, text)[1]))


def test_unused_stages_are_left_out_and_independent_ones_run_at_once(
    store: Store, context: Path
) -> None:
    text = ROOT + (
        "FROM base AS never\nRUN false\nFROM nowhere.invalid/nothing AS unknown\nRUN false\n"
        "FROM base AS a\nRUN --mount=type=cache,target=/c,id=meet touch /c/a; "
        "while ! test -e /c/b; do sleep 0.05; done\n"
        "FROM base AS b\nRUN --mount=type=cache,target=/c,id=meet touch /c/b; "
        "while ! test -e /c/a; do sleep 0.05; done\n"
        "FROM base\nCOPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\n"
    )
    plan = policy.plan(settings.COMMAND_LINE, timeout="30s")
    image, events = built(store, context, text, plan=plan)
    assert {"a", "b"} <= files(store, image).keys()
    assert {e.stage for e in events if isinstance(e, StepStarted)} == {"base", "a", "b", "5"}
    target, _ = built(store, context, text, target="a", plan=plan)
    assert target.digest != image.digest


def test_one_stage_that_fails_ends_the_others(store: Store, context: Path) -> None:
    text = ROOT + (
        "FROM base AS slow\nRUN sleep 60071\nFROM base AS bad\nRUN sleep 1; echo broken; exit 5\n"
        "FROM base\nCOPY --from=slow / /a\nCOPY --from=bad / /b"
    )
    begun = time.monotonic()
    with pytest.raises(BuildFailed, match="status 5: it wrote last: broken") as caught:
        built(store, context, text)
    assert time.monotonic() - begun < 15
    assert (caught.value.line, caught.value.status) == (6, 5)


def test_a_failure_names_line_column_and_what_was_written_last(store: Store, context: Path) -> None:
    cases = {
        "COPY missing /x": "line 3, column 1, `COPY missing /x`: copy `missing`: No such file",
        "COPY ignored* /x": "`ignored*`: nothing there has this name, or it is ignored",
        "COPY --from=base2 /x /x": "base2",
        "COPY --chown=nobody2 one.txt /x": "copy `nobody2`: the image's /etc/passwd has no",
        "RUN echo out; echo err >&2; exit 7": "it ended with status 7: it wrote last: ",
        "RUN kill -9 $$": "it was ended by signal 9",
        'RUN ["/no/program"]': "No such file or directory",
        "USER nobody2\nRUN true": "line 4, column 1, `RUN true`: find user `nobody2`",
        "RUN --network=host true": "this build has the network `none`",
    }
    for line, said in cases.items():
        with pytest.raises((BuildFailed, ContainerfileError, ImageError)) as caught:
            built(store, context, ROOT + line)
        assert said in str(caught.value), line
        assert "\n" not in str(caught.value)
    plan = policy.plan(settings.COMMAND_LINE, timeout="500ms")
    with pytest.raises(BuildFailed, match=r"the limit is 0\.5 s") as timed_out:
        built(store, context, ROOT + "RUN echo begun; sleep 60", plan=plan)
    assert timed_out.value.status == 124 and timed_out.value.output == "begun\n"
    with pytest.raises(InvalidOption, match="--target"):
        built(store, context, ROOT, target="none")


def test_what_the_system_refuses_a_step_is_told_with_its_line(store: Store, context: Path) -> None:
    (Path(store.root) / "builds").write_text("where the cache is to be")
    with pytest.raises(BuildFailed, match=r"line 2, column 1, `COPY root /`: .*Not a directory"):
        built(store, context, ROOT)


@pytest.mark.everybody
def test_apt_get_installs_a_local_package(store: Store, tmp_path: Path) -> None:
    """Its files belong to several users, and its script changes owners and bits."""
    root = debian_root.make(tmp_path / "root")
    debian_root.make_package(tmp_path)
    text = (
        "FROM scratch\nCOPY root /\nCOPY *.deb /tmp/\n"
        "RUN apt-get install -y /tmp/greeting_1.0_all.deb && greeting && dpkg -s greeting\n"
    )
    image, events = built(store, tmp_path, text)
    assert "hello from a package" in told(events) and "install ok installed" in told(events)
    tree = files(store, image)
    assert tree["var/lib/greeting"][1:4] == (0o2750, 5, 50)
    assert tree["usr/bin/greeting"].mode == 0o4755
    assert root.exists()


def test_pip_installs_a_local_wheel(store: Store, tmp_path: Path) -> None:
    python_rootfs.make(tmp_path / "root")
    (tmp_path / "wheels").mkdir()
    wheels.make(tmp_path / "wheels", "tiny-thing")
    (pip,) = Path("/usr/share/python-wheels").glob("pip-*.whl")
    (tmp_path / "wheels" / pip.name).write_bytes(pip.read_bytes())
    install = [
        "python3", f"/wheels/{pip.name}/pip", "install", "--no-index", "--find-links", "/wheels",
        "--break-system-packages", "tiny-thing",
    ]  # fmt: skip
    text = (
        "FROM scratch\nCOPY root /\n"
        f"RUN --mount=type=bind,source=wheels,target=/wheels {json.dumps(install)}\n"
        'RUN ["python3", "-c", "import tiny_thing; print(tiny_thing.version)"]\n'
    )
    _, events = built(store, tmp_path, text)
    assert told(events).endswith("1.0\n")


@pytest.mark.everybody
def test_the_command_builds_and_the_image_runs(store: Store, context: Path) -> None:
    text = "ARG TAG=none\n" + ROOT + "ARG WHO\nENV WHO=$WHO\nLABEL a=1\nCMD echo hello $WHO\n"
    (context / "Containerfile").write_text(text)
    options = ["--build-arg", "WHO=world", "--label", "b=2"]
    done = command("build", "-t", "greeting:1", *options, str(context))
    assert done.returncode == 0, done.stderr
    assert "[base 1/5] COPY root /" in done.stderr
    image = store.find("greeting:1")
    assert done.stdout == f"{image.digest}\n"
    assert image.config.execution()["Labels"] == {"a": "1", "b": "2"}
    assert command("run", "greeting:1").stdout == "hello world\n"
    again = command(
        "build", "-q", "-t", "greeting:1", "-f", "-", *options, str(context), given=text
    )
    assert again.stdout == done.stdout and again.stderr == ""
    bad = command("build", "-f", "-", str(context), given="FROM scratch\n RUNN x\n")
    assert bad.returncode == 125
    assert bad.stderr.startswith("sandbox-kernel: build: read `Containerfile`, line 2, column 2: ")
    assert command("run", f"build:{context}").stdout == "hello\n"


def test_a_build_that_is_killed_leaves_nothing_and_the_next_one_goes_on(
    store: Store, context: Path
) -> None:
    text = ROOT + "RUN echo one > /one\nRUN sleep 60073\n"
    (context / "Containerfile").write_text(text)
    for number in (signal.SIGKILL, signal.SIGINT):
        running = subprocess.Popen(
            [*COMMAND, "build", str(context)], stderr=subprocess.PIPE, text=True
        )
        assert running.stderr is not None
        for line in running.stderr:
            if "echo one" in line:
                break
        running.send_signal(number)
        running.wait(20)
        running.stderr.close()
    text = ROOT + "RUN echo one > /one\nRUN true\n"
    _, events = built(store, context, text)
    assert cached(events) == [True, True, False]


def test_a_base_comes_from_a_registry_and_buildah_runs_what_is_built_on_it(
    store: Store, context: Path, tmp_path: Path
) -> None:
    (tmp_path / "buildah").mkdir()
    buildah = built_images.Buildah(tmp_path / "buildah")
    buildah.build(context / "root", "FROM scratch\nCOPY . /\nENV A=base\n", name="base:1")
    with registries.registry(tmp_path / "registry") as served:
        insecure = "--tls-verify=false"
        buildah.run("push", insecure, "localhost/base:1", f"docker://{served.authority}/base:1")
        name = f"{served.authority}/ours:1"
        text = f"FROM {served.authority}/base:1\nRUN echo $A > /made && rm /etc/group\nUSER app\n"
        image, _ = built(store, context, text, name=name)
        registry.push(store, image, reference.registry(name))
        buildah.run("from", insecure, "--name", "working", f"docker://{name}")
        script = "cat /made; id -u; test -e /etc/group || echo gone"
        run = ("run", "--isolation", "chroot", "working", "/bin/sh", "-c", script)
        assert buildah.run(*run) == "base\n1000\ngone\n"
        buildah.run("rm", "working")
    buildah.close()


def test_many_builds_with_one_cache_at_once(store: Store, context: Path) -> None:
    text = (
        ROOT
        + "RUN echo one > /one\nCOPY sub /sub\nRUN --mount=type=cache,target=/c echo x > /c/x\n"
    )
    made: list[str] = []
    problems: list[Exception] = []

    def work() -> None:
        try:
            made.append(built(store, context, text, epoch=1_700_000_000)[0].digest)
        except Exception as error:  # shown below
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert len(made) == 4 and len(set(made)) == 1


@pytest.mark.everybody
def test_pruning_takes_steps_without_layers_and_caches_nobody_uses(
    store: Store, context: Path
) -> None:
    text = ROOT + "RUN --mount=type=cache,target=/c,uid=7 echo x > /c/x && echo one > /one\n"
    built(store, context, text, name="kept:1")
    built(store, context, text + "RUN echo two > /two\n")
    steps, caches = Path(store.root, "builds/steps"), Path(store.root, "builds/caches")
    before = len(list(steps.iterdir()))
    store.prune()
    assert collecting.prune(store, caches=False) == 1
    assert len(list(steps.iterdir())) == before - 1  # the last step of the image without a name
    assert len(list(caches.iterdir())) == 1
    assert all(cached(built(store, context, text)[1]))
    store.prune(named=True)
    collecting.prune(store, caches=True)
    assert not list(steps.iterdir()) and not list(caches.iterdir())
    assert not any(cached(built(store, context, text)[1]))


def test_a_build_with_nothing_to_do_starts_no_container(store: Store, context: Path) -> None:
    (context / "Containerfile").write_text(ROOT + "RUN echo one > /one\nCMD x")
    assert command("build", str(context)).returncode == 0
    script = (
        "import sys; from sandbox_kernel.cli import main; "
        f"assert main.main(['build', '-q', {str(context)!r}]) == 0; "
        "sys.exit('sandbox_kernel.runtime.client' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0

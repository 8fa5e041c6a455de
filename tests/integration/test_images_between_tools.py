"""Images that docker, buildah and podman made run here, and ours run there, over real registries.

All of them make an image with a Python: docker of a tar, the others on top of what docker pushed.
Cells run in each, as root and as an ordinary user, who then builds on one of them and pushes it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import docker_engine
import pytest
import python_rootfs
from ordinary_user import OrdinaryUser
from registries import Served, registry, skopeo

USER, PASSWORD = "reader", "its: pass word"
GROUP = f"sandbox-kernel-tools-{os.getpid()}"
MADE = ("docker", "buildah", "podman")
RUNC = "/usr/sbin/runc"
"""Where crun is too, they take that one, which may refuse the control groups of this machine."""
FILE = """FROM {base}
RUN ["/usr/bin/python3", "-c", "open('/made-by', 'w').write('{maker}')"]
ENV MAKER={maker}
CMD ["/usr/bin/python3", "-c", "print('it runs, made by', open('/made-by').read())"]
"""
# Prints for each image what a cell in it saw, and the image's digest.
CELLS = """
import json, sys
import sandbox_kernel
cell = "import os, sys; print(open('/made-by').read(), os.environ['MAKER'], sys.executable)"
results = {name: sandbox_kernel.run(cell, image=name).check() for name in sys.argv[1:]}
print(json.dumps({name: [result.stdout, result.digest] for name, result in results.items()}))
"""
LEFT_OUT = ("config-3.*", "lib2to3", "pydoc_data", "ensurepip", "distutils", "dbm", "curses")


class Place(NamedTuple):
    """Everybody's tools, a registry that is open, one with TLS and a password."""

    folder: Path
    docker: docker_engine.Docker
    plain: Served
    guarded: Served

    def run(self, program: str, *words: str | Path) -> str:
        """buildah or podman, with one storage for both: its output without the last line's end."""
        storage = ["--root", self.folder / "storage", "--runroot", self.folder / "run"]
        storage += ["--storage-driver", "overlay"]
        if program == "podman":
            storage += ["--tmpdir", self.folder / "podman", "--cgroup-manager", "cgroupfs"]
            storage += ["--runtime", RUNC]
        done = subprocess.run(
            ["/usr/bin/unshare", "--mount", program, *storage, *words],
            capture_output=True, text=True, check=False, timeout=120,
            env={**os.environ, "BUILDAH_ISOLATION": "chroot"},
        )  # fmt: skip
        assert done.returncode == 0, f"{program} {words[0]}: {done.stderr}"
        return done.stdout.strip()

    def context(self, maker: str, base: str) -> Path:
        """A folder with the Containerfile of a maker."""
        folder = self.folder / "contexts" / maker
        folder.mkdir(parents=True)
        (folder / "Dockerfile").write_text(FILE.format(maker=maker, base=base))
        return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """docker's socket needs a short path."""
    folder = Path(tempfile.mkdtemp(prefix="sandbox-kernel-tools-", dir="/var/tmp"))
    try:
        for name in ("engine", "plain", "guarded"):
            (folder / name).mkdir()
        with (
            docker_engine.engine(folder / "engine", group=GROUP) as docker,
            registry(folder / "plain") as plain,
            registry(folder / "guarded", tls=True, users={USER: PASSWORD}) as guarded,
        ):
            made = Place(folder, docker, plain, guarded)
            _make_images(made)
            yield made
    finally:
        docker_engine.remove_groups(GROUP)
        shutil.rmtree(folder)


def _make_images(place: Place) -> None:
    """Pushed by docker, buildah and podman: one each, an index of two platforms, one guarded."""
    docker, at, guarded = place.docker, place.plain.authority, place.guarded.authority
    root = python_rootfs.make(place.folder / "root")
    for pattern in LEFT_OUT:
        for path in root.glob(f"usr/lib/python3.*/{pattern}"):
            shutil.rmtree(path)
    archive = place.folder / "root.tar"
    subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
    docker.run("import", archive, "base")
    docker.run("build", "-q", "--network=none", "-t", f"{at}/docker:1",
        place.context("docker", "base"))  # fmt: skip
    docker.run("push", "-q", f"{at}/docker:1")

    def build_on_it() -> None:
        for program, build in (("buildah", "bud"), ("podman", "build")):
            context, name = place.context(program, f"{at}/docker:1"), f"{at}/{program}:1"
            place.run(program, build, "--quiet", "--tls-verify=false", "-t", name, context)
            place.run(program, "push", "--quiet", "--tls-verify=false", name)

    def guard() -> None:
        docker.run("login", "-u", USER, "--password-stdin", guarded, text=PASSWORD)
        docker.run("tag", f"{at}/docker:1", f"{guarded}/docker:1")
        docker.run("push", "-q", f"{guarded}/docker:1")

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(build_on_it), pool.submit(guard)]:
            done.result()

    docker.run("import", "-", f"{at}/arm:1", text="\0" * 1024)
    docker.run("push", "-q", f"{at}/arm:1")
    many = (f"{at}/many:1", f"{at}/arm:1")
    docker.run("manifest", "create", "--insecure", *many, f"{at}/docker:1")
    docker.run("manifest", "annotate", "--os=linux", "--arch=arm64", *many)
    docker.run("manifest", "push", many[0])


class Person(NamedTuple):
    """Root or an ordinary user, with a store of images and settings that let the registries in."""

    folder: Path
    user: OrdinaryUser | None

    def python(self, *words: str) -> str:
        """`python WORDS` by him: what it printed."""
        more = {
            "SANDBOX_KERNEL_IMAGES": str(self.folder / "images"),
            "XDG_CONFIG_HOME": str(self.folder),
            "REGISTRY_AUTH_FILE": str(self.folder / "auth.json"),
        }
        if self.user is not None:
            done = self.user.run(["python", *words], env=more)
        else:
            done = subprocess.run(
                [sys.executable, *words], env={**os.environ, **more},
                capture_output=True, text=True, check=False, timeout=120,
            )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def command(self, *words: str) -> str:
        """`sandbox-kernel WORDS`."""
        return self.python("-m", "sandbox_kernel.cli.main", *words)


@pytest.fixture(params=["root", "ordinary"])
def person(request: pytest.FixtureRequest, place: Place) -> Iterator[Person]:
    folder = Path(tempfile.mkdtemp(prefix="sandbox-kernel-person-", dir="/var/tmp"))
    try:
        settings = folder / "sandbox-kernel"
        settings.mkdir()
        assert place.guarded.ca is not None
        shutil.copy(place.guarded.ca, settings / "ca.pem")
        (settings / "config.toml").write_text(
            f'[registry]\nca_files = ["{settings}/ca.pem"]\n'
            f'[ceiling]\nimage = ["{place.plain.authority}/*", "{place.guarded.authority}/*"]\n'
        )
        shutil.copy(place.docker.folder / "client/config.json", folder / "auth.json")
        user = None
        if request.param != "root":
            user = request.getfixturevalue("ordinary_user")
            for path in (folder, *folder.rglob("*")):
                os.chown(path, user.uid, -1)
        yield Person(folder, user)
    finally:
        shutil.rmtree(folder)


def test_images_of_others_run_here_and_ours_run_there(place: Place, person: Person) -> None:
    at, guarded = place.plain.authority, place.guarded.authority
    names = [*(f"{at}/{maker}:1" for maker in MADE), f"{at}/many:1", f"{guarded}/docker:1"]
    ran = json.loads(person.python("-c", CELLS, *names))
    for maker, name in zip((*MADE, "docker", "docker"), names, strict=True):
        assert ran[name][0].split() == [maker, maker, "/usr/bin/python3"], name

    # by digest: docker's own in the one registry, and the same bytes in the other
    there = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{at}/docker:1"))
    pinned = f"{at}/docker@{there['Digest']}"
    assert json.loads(person.python("-c", CELLS, pinned))[pinned] == ran[names[0]]
    assert ran[f"{guarded}/docker:1"][1] == ran[f"{at}/many:1"][1] == ran[names[0]][1]

    # ours, on top of docker's: built and pushed by him, read and run by everybody else
    ours = f"{guarded}/ours-{'root' if person.user is None else 'ordinary'}:1"
    context = person.folder / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(FILE.format(maker="us", base=f"{guarded}/docker:1"))
    person.command("build", "-t", ours, str(context))
    person.command("push", ours)
    says = "it runs, made by us"

    isolated = ("--rm", "--network=none")
    assert place.docker.run("run", *isolated, ours) == says
    login = ("--tls-verify=false", f"--authfile={place.docker.folder}/client/config.json")
    shown = json.loads(skopeo("inspect", *login, f"docker://{ours}"))
    assert "MAKER=us" in shown["Env"]
    place.run("podman", "pull", "--quiet", *login, ours)
    assert place.run("podman", "image", "inspect", "--format={{.Digest}}", ours) == shown["Digest"]
    # what podman would set by itself needs CAP_SYS_RESOURCE, which not every root has
    limits = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024", f"--cgroup-parent=/{GROUP}")
    assert place.run("podman", "run", *isolated, *limits, ours) == says
    working = place.run("buildah", "from", ours)
    command = ("/usr/bin/python3", "-c", "print(open('/made-by').read())")
    assert place.run("buildah", "run", "--runtime", RUNC, working, "--", *command) == "us"


def test_docker_loads_what_is_saved_and_what_docker_saves_is_loaded_and_runs(
    place: Place, person: Person
) -> None:
    theirs, archive = f"{place.plain.authority}/docker:1", person.folder / "docker.tar"

    def save_by_docker(name: str) -> None:
        place.docker.run("save", "-o", archive, name)
        archive.chmod(0o644)  # docker's client makes it for its user alone

    save_by_docker(theirs)
    person.command("load", "-i", str(archive))
    assert json.loads(person.python("-c", CELLS, theirs))[theirs][0].split()[0] == "docker"

    context = person.folder / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(FILE.format(maker="us", base=theirs))
    person.command("build", "-t", "saved:1", str(context))
    (context / "Dockerfile").write_text("FROM scratch\nLABEL a=b\n")
    person.command("build", "-t", "bare:1", str(context))
    ours = person.folder / "ours.tar"
    person.command("save", "-o", str(ours), "saved:1", "bare:1")
    assert "Loaded image: saved:1" in place.docker.run("load", "-i", ours)
    try:
        assert place.docker.run("run", "--rm", "--network=none", "saved:1") == "it runs, made by us"
        labels = place.docker.run("inspect", "--format={{json .Config.Labels}}", "bare:1")
        assert json.loads(labels) == {"a": "b"}
        # and back: what docker keeps of ours
        save_by_docker("saved:1")
        person.command("rmi", "saved:1")
        person.command("load", "-i", str(archive))
        assert json.loads(person.python("-c", CELLS, "saved:1"))["saved:1"][0].split()[0] == "us"
    finally:
        place.docker.run("rmi", "saved:1", "bare:1")

"""Pulls and pushes with a real `docker-registry` on loopback, beside buildah, skopeo and podman.

The images are made by others' tools; what is pushed by us is read by them. Each is run, as root and
as an ordinary user.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import made_images
import nbformat
import pytest
from hostile_registry import MANIFEST, REPOSITORY, Server, digest
from nbclient import NotebookClient
from ordinary_user import OrdinaryUser
from registries import Served, registry, skopeo

from sandbox_kernel.errors import RegistryError
from sandbox_kernel.image import documents, reference
from sandbox_kernel.image.registry import credentials, listing, pull, pulling, push, pushing
from sandbox_kernel.image.registry.configuration import Configuration, Mirror
from sandbox_kernel.image.registry.progress import Progress
from sandbox_kernel.image.store import Store

PLAIN = Configuration()
USER, PASSWORD = "reader", "its: pass word"
COMMAND = [sys.executable, "-m", "sandbox_kernel.cli.main"]
MODULE = ["python", "-m", "sandbox_kernel.cli.main"]


class Tools(NamedTuple):
    """buildah and podman with storage of their own, below one folder."""

    folder: Path

    def run(self, program: str, *words: str | Path) -> str:
        """Its standard output, without the last line's end."""
        storage = ["--root", self.folder / "storage", "--runroot", self.folder / "run"]
        done = subprocess.run(
            [program, *storage, "--storage-driver", "vfs", *words],
            capture_output=True, text=True, check=False, timeout=120,
            env={**os.environ, "BUILDAH_ISOLATION": "chroot"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def image(self, name: str, note: str, *options: str) -> None:
        """An image of two layers, made by buildah as people do."""
        program = self.folder / "says"
        if not program.exists():
            program.write_bytes(made_images.program())
            program.chmod(0o755)
        (self.folder / "note").write_text(note)
        working = self.run("buildah", "from", *options, "scratch")
        self.run("buildah", "add", working, program, "/bin/says")
        self.run("buildah", "config", "--cmd", '["/bin/says"]', "--env", "PATH=/bin", working)
        lower = self.run("buildah", "commit", "--quiet", "--rm", working)
        working = self.run("buildah", "from", *options, lower)
        self.run("buildah", "add", working, self.folder / "note", "/etc/note")
        self.run("buildah", "commit", "--rm", working, name)


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tools]:
    folder = tmp_path_factory.mktemp("tools")
    made = Tools(folder)
    made.image("own", "of this platform\n")
    made.image("arm", "of another platform\n", "--arch", "arm64")
    yield made
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def served(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A plain registry with `oci`, `docker` (its media types) and `many` (an index)."""
    with registry(tmp_path_factory.mktemp("registry")) as running:
        at = f"docker://{running.authority}"
        _push_by_buildah(tools, "--format", "oci", "own", f"{at}/made/oci:1")
        _push_by_buildah(tools, "--format", "v2s2", "own", f"{at}/made/docker:1")
        tools.run("buildah", "manifest", "create", "many", "own", "arm")
        words = ("manifest", "push", "--all", "--tls-verify=false", "many", f"{at}/made/many:1")
        tools.run("buildah", *words)
        yield running


def _push_by_buildah(tools: Tools, *words: str) -> None:
    tools.run("buildah", "push", "--tls-verify=false", *words)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "images"))


@pytest.fixture(autouse=True)
def _no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of whoever runs the tests are not for us."""
    (tmp_path / "no-credentials").write_text("{}")
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "no-credentials"))


@pytest.fixture(params=["root", "an ordinary user"])
def run(request: pytest.FixtureRequest) -> Iterator[Command]:
    """`run(WORDS)` is the command, by root or another user, with an image store of its own."""
    folder = Path(tempfile.mkdtemp(prefix="sandbox-kernel-store-", dir="/var/tmp"))
    try:
        folder.chmod(0o755)
        user = None
        if request.param != "root":
            user = request.getfixturevalue("ordinary_user")
            os.chown(folder, user.uid, -1)
        yield Command(folder, user)
    finally:
        shutil.rmtree(folder)


class Command(NamedTuple):
    """The command by some user."""

    folder: Path
    user: OrdinaryUser | None

    def __call__(self, *words: str, env: Mapping[str, str] | None = None) -> str:
        """What it printed."""
        more = {"SANDBOX_KERNEL_IMAGES": str(self.folder / "images"), **(env or {})}
        if self.user is not None:
            done = self.user.run([*MODULE, *words], env=more)
        else:
            done = subprocess.run(
                [*COMMAND, *words], env={**os.environ, **more},
                capture_output=True, text=True, check=False, timeout=120,
            )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.mark.parametrize("kind", ["oci", "docker", "many"])
def test_images_of_other_tools_are_pulled_and_run(served: Served, run: Command, kind: str) -> None:
    name = f"{served.authority}/made/{kind}:1"
    pulled = json.loads(run("pull", "--format", "json", name))
    assert pulled["reference"] == name
    assert run("run", name) == "it runs\n"
    assert run("run", name, "/bin/says", "cat", "/etc/note") == "of this platform\n"

    # by digest, without the registry now: it is all there
    pinned = f"{served.authority}/made/{kind}@{pulled['digest']}"
    assert run("run", pinned, "/bin/says", "env", "PATH") == "/bin\n"


def test_with_tls_and_a_password(
    tools: Tools, run: Command, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The password is where `skopeo login` put it, the authority in the user's own settings."""
    folder = tmp_path_factory.mktemp("guarded")
    with registry(folder, tls=True, users={USER: PASSWORD}) as guarded:
        assert guarded.ca is not None
        certs, login = folder / "certs", run.folder / "auth.json"
        certs.mkdir()
        shutil.copy(guarded.ca, certs / "ca.crt")
        subprocess.run(
            ["skopeo", "login", "--cert-dir", certs, "--authfile", login, "--username", USER,
             "--password-stdin", guarded.authority],
            input=PASSWORD, text=True, check=True, capture_output=True,
        )  # fmt: skip
        name = f"{guarded.authority}/made/own:1"
        tools.run(
            "buildah", "push", "--cert-dir", certs, "--authfile", login, "own", f"docker://{name}"
        )
        settings = run.folder / "sandbox-kernel"
        settings.mkdir()
        shutil.copy(guarded.ca, settings / "ca.pem")
        (settings / "config.toml").write_text(f'[registry]\nca_files = ["{settings}/ca.pem"]\n')
        if run.user is not None:
            for path in (settings, settings / "ca.pem", settings / "config.toml", login):
                os.chown(path, run.user.uid, -1)
        there = {"XDG_CONFIG_HOME": str(run.folder), "REGISTRY_AUTH_FILE": str(login)}

        assert name in run("pull", name, env=there)
        assert run("run", name, env=there) == "it runs\n"
        ours = f"{guarded.authority}/ours/own:2"
        run("push", name, ours, env=there)
        where = ["--cert-dir", str(certs), "--authfile", str(login), f"docker://{ours}"]
        assert len(json.loads(skopeo("inspect", *where))["Layers"]) == 2

        with pytest.raises(RegistryError, match=r"401.*docker login"):
            pull(
                Store.open(str(folder / "images")),
                reference.registry(name),
                configuration=Configuration(ca_files=(str(guarded.ca),)),
            )


def test_what_is_pushed_by_us_is_read_by_others(
    served: Served, store: Store, tools: Tools, tmp_path: Path
) -> None:
    stored = made_images.small(store)
    name = f"{served.authority}/ours/small:1"
    digest = push(store, stored, reference.registry(name), configuration=PLAIN)

    shown = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{name}"))
    assert shown["Digest"] == digest == stored.digest
    tools.run("podman", "pull", "--tls-verify=false", name)
    assert tools.run("podman", "image", "inspect", "--format", "{{.Digest}}", name) == digest
    raw = skopeo("inspect", "--tls-verify=false", "--raw", f"docker://{name}")
    assert raw.encode() == store.read(stored.digest)

    # and back, into an empty store
    other = Store.open(str(tmp_path / "other"))
    assert pull(other, reference.registry(name), configuration=PLAIN).digest == digest
    assert listing.tags(reference.registry(name), configuration=PLAIN) == ("1",)


def test_oras_reads_the_store_and_what_is_pushed(
    served: Served, store: Store, tmp_path: Path
) -> None:
    """It takes the store for the image layout that it is, blob by blob, to a registry and back."""
    stored = made_images.small(store)
    (name,) = stored.names
    import oras.layout  # which the environment of the ordinary user lacks
    import oras.provider

    layout = oras.layout.Layout(store.root)
    digests = [*(each.digest for each in stored.manifest.layers), stored.manifest.config.digest]
    assert layout.get_ordered_blobs(tag=name) == [*digests, stored.digest]

    client = oras.provider.Registry(insecure=True)
    brought = f"{served.authority}/oras/small:1"
    layout.push_to_registry(client, brought, tag=name)
    other = Store.open(str(tmp_path / "other"))
    assert pull(other, reference.registry(brought), configuration=PLAIN).digest == stored.digest

    ours = f"{served.authority}/ours/for-oras:1"
    push(store, stored, reference.registry(ours), configuration=PLAIN)
    theirs = oras.layout.NewLayoutFromRegistry(str(tmp_path / "theirs"), client, ours)
    theirs.validate()
    for blob in [*digests, stored.digest]:
        assert theirs.digest_to_blob_path(blob).read_bytes() == store.read(blob)


def test_a_large_layer_goes_up_in_chunks_and_into_other_repositories_by_mount(
    served: Served, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "CHUNK", 1 << 20)
    content = os.urandom(5 << 20)
    stored = made_images.put(store, "large:1", [made_images.layer({"large": content})])
    first = reference.registry(f"{served.authority}/ours/large:1")
    push(store, stored, first, configuration=PLAIN)

    stages: list[tuple[str, str]] = []

    def listen(event: Progress) -> None:
        stages.append((event.digest, event.stage))

    other = Store.open(str(tmp_path / "other"))
    pulled = pull(other, first, configuration=PLAIN, progress=listen)
    (layer,) = pulled.manifest.layers
    assert [stage for digest, stage in stages if digest == layer.digest][-1] == "done"
    tree = other.layer(pulled.diff_ids[0])
    assert tree is not None
    assert Path(tree, "large").read_bytes() == content

    # known to be from this registry: nothing is sent again
    stages.clear()
    second = reference.registry(f"{served.authority}/elsewhere/large:2")
    push(other, pulled, second, configuration=PLAIN, progress=listen)
    assert (layer.digest, "mounted") in stages
    assert not any(stage == "uploading" for _, stage in stages)
    skopeo("inspect", "--tls-verify=false", f"docker://{second}")


def test_of_an_index_the_platform_asked_for_is_taken(served: Served, store: Store) -> None:
    from sandbox_kernel.image.registry.configuration import platform

    name = reference.registry(f"{served.authority}/made/many:1")
    own = pull(store, name, configuration=PLAIN)
    other = pull(store, name, platform=platform("linux/arm64", ""), configuration=PLAIN)
    assert (own.config.architecture, other.config.architecture) == ("amd64", "arm64")
    assert own.index == other.index
    with pytest.raises(RegistryError, match=r"none for linux/s390x, only for linux/amd64, linux/a"):
        pull(store, name, platform=platform("linux/s390x", ""), configuration=PLAIN)

    # the digest of the index names it too
    pinned = reference.registry(f"{name.name}@{own.index}")
    assert pull(store, pinned, configuration=PLAIN).digest == own.digest


def test_layers_compressed_with_zstd(store: Store, tools: Tools, tmp_path: Path) -> None:
    with registry(tmp_path / "other") as other:  # elsewhere buildah would find them with gzip
        name = f"{other.authority}/made/zstd:1"
        zstd = ("--compression-format", "zstd", "--format", "oci")
        _push_by_buildah(tools, *zstd, "own", f"docker://{name}")
        found = pull(store, reference.registry(name), configuration=PLAIN)
    assert {layer.media_type for layer in found.manifest.layers} == {
        "application/vnd.oci.image.layer.v1.tar+zstd"
    }
    assert all(store.layer(diff_id) for diff_id in found.diff_ids)


def test_a_layer_that_depends_on_those_below_is_unpacked_over_them(
    served: Served, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hard link to a file of a lower layer; what was unpacked so is found the next time."""
    upper = io.BytesIO()
    with tarfile.open(fileobj=upper, mode="w") as archive:
        link = tarfile.TarInfo("etc/other-note")
        link.type, link.linkname = tarfile.LNKTYPE, "etc/note"
        archive.addfile(link)
        large = tarfile.TarInfo("large")  # comes to its end, although what reads it has stopped
        large.size = 3 << 20
        archive.addfile(large, io.BytesIO(os.urandom(large.size)))
    monkeypatch.setattr(pulling, "READ_ON", 0)
    lower = made_images.layer({"etc": None, "etc/note": b"of the lower one\n"})
    made = made_images.put(store, "links:1", [lower, upper.getvalue()])
    name = reference.registry(f"{served.authority}/ours/links:1")
    push(store, made, name, configuration=PLAIN)

    from sandbox_kernel.image import layers, unpacked

    applied, apply = [], layers.apply
    monkeypatch.setattr(layers, "apply", lambda *a, **k: applied.append(a) or apply(*a, **k))
    other = Store.open(str(tmp_path / "other"))
    found = pull(other, name, configuration=PLAIN)
    top = unpacked.unpack(other, found)[-1]
    assert Path(top, "etc/other-note").read_text() == "of the lower one\n"
    assert len(applied) == 3  # one of the two twice: it was not known before
    pull(other, name, configuration=PLAIN)
    assert len(applied) == 3


def test_a_second_image_fetches_only_what_is_new(
    served: Served, store: Store, tools: Tools
) -> None:
    pull(store, reference.registry(f"{served.authority}/made/oci:1"), configuration=PLAIN)
    working = tools.run("buildah", "from", "own")
    tools.run("buildah", "add", working, str(tools.folder / "note"), "/etc/another")
    tools.run("buildah", "commit", "--rm", working, "next")
    tools.run(
        "buildah", "push", "--tls-verify=false", "next", f"docker://{served.authority}/next:1"
    )
    events: dict[str, str] = {}
    found = pull(
        store,
        reference.registry(f"{served.authority}/next:1"),
        configuration=PLAIN,
        progress=lambda event: events.update({event.digest: event.stage}),
    )
    assert [events[layer.digest] for layer in found.manifest.layers] == ["there", "there", "done"]


def test_mirrors_are_asked_first_and_the_registry_when_they_fail(
    served: Served, store: Store, tmp_path: Path
) -> None:
    """The name stays that of the registry, wherever the bytes are from."""
    host, _, port = served.authority.partition(":")
    with registry(tmp_path / "other") as upstream:
        at = ["--src-tls-verify=false", "--dest-tls-verify=false"]
        skopeo("copy", *at, f"docker://{served.authority}/made/oci:1",
            f"docker://{upstream.authority}/made/only-there:1")  # fmt: skip
        dead = Mirror(upstream.authority, "http", "127.0.0.1:9")
        alive = Mirror(upstream.authority, "http", f"{host}:{port}")
        settings = Configuration(mirrors=(dead, alive))
        name = reference.registry(f"{upstream.authority}/made/docker:1")
        assert str(name) in pull(store, name, configuration=settings).names
        there = reference.registry(f"{upstream.authority}/made/only-there:1")
        assert str(there) in pull(store, there, configuration=settings).names
        with pytest.raises(RegistryError, match="no mirror and not the registry") as problem:
            pull(store, reference.registry(f"{there.name}:none"), configuration=settings)
        assert str(problem.value).count("404") == 2


@pytest.mark.parametrize("knows", [True, False])
def test_what_refers_to_an_image(knows: bool) -> None:
    """By the list of a registry that has one, in pages; else by the tag that stands in for it."""
    made = [
        {"mediaType": MANIFEST, "digest": digest(bytes([n])), "size": n, "artifactType": kind}
        for n, kind in enumerate(("application/x.signature", "application/x.parts"))
    ]

    def index(*entries: object) -> bytes:
        document = {"schemaVersion": 2, "mediaType": documents.OCI_INDEX, "manifests": entries}
        return json.dumps(document).encode()

    with Server() as server:
        subject = digest(server.image.manifest)
        path = f"/v2/{REPOSITORY}/referrers/{subject}"
        kind = {"Content-Type": documents.OCI_INDEX}
        if knows:
            more = {**kind, "Link": f'<{path}?page=2>; rel="next"'}
            server.answers["GET", path] = lambda handler: (
                handler.reply(200, index(made[1]), kind)
                if "page=2" in handler.path
                else handler.reply(200, index(made[0]), more)
            )
        else:
            tag = f"/v2/{REPOSITORY}/manifests/{subject.replace(':', '-')}"
            server.answers["GET", tag] = lambda handler: handler.reply(200, index(*made), kind)
        name = reference.registry(server.name)
        found = listing.referrers(name, configuration=PLAIN)
        assert [each.digest for each in found] == [each["digest"] for each in made]
        one = "application/x.parts"
        (found_one,) = listing.referrers(name, artifact_type=one, configuration=PLAIN)
        assert found_one.digest == made[1]["digest"]
        listed = subprocess.run(
            [*COMMAND, "referrers", "--format", "json", server.name],
            capture_output=True,
            check=True,
        )
        assert [each["artifact_type"] for each in json.loads(listed.stdout)] == [
            "application/x.signature", one,
        ]  # fmt: skip


def test_nothing_refers_to_an_image(served: Served) -> None:
    name = f"{served.authority}/made/oci:1"
    assert listing.referrers(reference.registry(name), configuration=PLAIN) == ()
    listed = subprocess.run([*COMMAND, "tags", name], capture_output=True, check=True, text=True)
    assert listed.stdout == "1\n"


def test_a_credential_helper_is_asked_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never one that the PATH or the file leads to; it gets a clean environment."""
    folder, helper = tmp_path / "bin", tmp_path / "bin/docker-credential-test"
    folder.mkdir()
    helper.write_text(
        '#!/bin/sh\nread -r host\ntest -z "$LD_PRELOAD$CANARY" || exit 3\n'
        'test "$host" = registry.test:5000 || { echo "credentials not found in native keychain"; '
        "exit 1; }\n"
        'printf \'{"Username": "%s", "Secret": "from the helper"}\' "$1"\n'
    )
    helper.chmod(0o755)
    config = tmp_path / "config.json"
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(config))
    monkeypatch.setenv("CANARY", "seen")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    config.write_text(json.dumps({"credsStore": "test"}))
    with pytest.raises(RegistryError, match="is in none of"):
        credentials.find("registry.test:5000", "some/image")
    monkeypatch.setattr(credentials, "HELPER_FOLDERS", (str(folder),))
    found = credentials.find("registry.test:5000", "some/image")
    assert found is not None
    assert (found.name, found.password) == ("get", "from the helper")
    assert "from the helper" not in repr(found)
    assert credentials.find("other.test", "some/image") is None
    for wrong in ("../test", "/bin/sh", "test; true", "-x"):
        config.write_text(json.dumps({"credHelpers": {"registry.test:5000": wrong}}))
        with pytest.raises(RegistryError, match="no name of a credential helper"):
            credentials.find("registry.test:5000", "some/image")


def test_pull_and_push_in_a_notebook(served: Served, tmp_path: Path) -> None:
    """A view of progress that stays, and the digest; held to the user's ceilings."""
    config, name = tmp_path / "config/sandbox-kernel/config.toml", f"{served.authority}/made/oci:1"
    config.parent.mkdir(parents=True)
    env = {
        **os.environ,
        "SANDBOX_KERNEL_IMAGES": str(tmp_path / "images"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }
    notebook = nbformat.v4.new_notebook()
    cells = ("%load_ext sandbox_kernel", f"%container pull {name}", f"%container push {name} "
        f"{served.authority}/ours/notebook:1", f"%container pull {name} --format json")  # fmt: skip

    def outputs() -> list[list[Any]]:
        notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
        NotebookClient(notebook, kernel_name="python3", timeout=60, allow_errors=True).execute(
            env=env
        )
        return [cell.outputs for cell in notebook.cells[1:]]

    for refused in outputs():
        assert refused[0].ename == "NotAllowed"
    config.write_text(f'[ceiling]\nimage = ["{served.authority}/*"]\n')
    pulled, pushed, again = outputs()
    digest = Store.open(str(tmp_path / "images")).find(name).digest
    assert re.fullmatch(r"2/2 layers, .* of .*", pulled[0].data["text/plain"])
    assert pulled[0].data["text/html"].count("<progress") == 2  # a bar for each layer
    assert pulled[1].text == f"{name}@{digest}\n"
    assert pushed[0].data["text/plain"].startswith("3/3 layers")
    assert pushed[1].text == f"{served.authority}/ours/notebook:1@{digest}\n"
    assert json.loads(again[-1].text) == {"reference": name, "digest": digest}


def test_bars_on_a_terminal_and_silence_elsewhere(served: Served, tmp_path: Path) -> None:
    name = f"{served.authority}/made/oci:1"
    env = {**os.environ, "SANDBOX_KERNEL_IMAGES": str(tmp_path / "images"), "COLUMNS": "100"}
    main, terminal = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "pull", name], env=env, stderr=terminal, stdout=subprocess.PIPE, text=True
    ) as pulling:
        os.close(terminal)
        with open(main, "rb", buffering=0) as screen, contextlib.suppress(OSError):
            shown = b""
            while piece := screen.read(4096):  # EIO when the last who writes has ended
                shown += piece
        assert pulling.stdout is not None
        said = pulling.stdout.read()
    assert pulling.returncode == 0
    store = Store.open(str(tmp_path / "images"))
    for layer in store.find(name).manifest.layers:
        assert layer.digest.removeprefix("sha256:")[:12] in shown.decode()
    assert said == f"{name}@{store.find(name).digest}\n"
    silent = subprocess.run([*COMMAND, "pull", name], env=env, capture_output=True, check=True)
    assert silent.stderr == b""

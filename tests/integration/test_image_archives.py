"""Promises about images in files: others read ours, we read theirs, and no bombs."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from commands import COMMAND, command, output_of
from made_images import layer, program, put, small

from sandbox_kernel import image, run
from sandbox_kernel.errors import ImageError
from sandbox_kernel.image import archives, documents, reference
from sandbox_kernel.image import digest as digests
from sandbox_kernel.image.archives import members
from sandbox_kernel.image.layers import remove_tree
from sandbox_kernel.image.store import Store, Stored
from sandbox_kernel.image.unpacked import own_architecture

Make = Callable[[Sequence[tuple[str, bytes]]], str]


@pytest.fixture
def made_archive(tmp_path: Path) -> Make:
    """Writes a tar of these files; its path."""

    def make(files: Sequence[tuple[str, bytes]]) -> str:
        path = tmp_path / f"made-{len(os.listdir(tmp_path))}.tar"
        with tarfile.open(path, "w") as archive:
            for name, data in files:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return str(path)

    return make


def saved(store: Store, made: Stored, kind: str, path: Path, name: str | None = "app:1") -> Path:
    with open(path, "wb") as file:
        full = None if name is None else str(reference.registry(name))
        archives.save(store, [(made, full)], kind, file)  # type: ignore[arg-type]
    return path


@pytest.fixture
def podman_folder() -> Iterator[Path]:
    """A short path, which podman demands; its trees have many owners."""
    folder = tempfile.mkdtemp(prefix="sk-", dir="/var/tmp")
    yield Path(folder)
    for name in os.listdir(folder):
        remove_tree(f"{folder}/{name}")
    os.rmdir(folder)


def podman(folder: Path, *words: str) -> str:
    """podman with a storage of its own."""
    places = ["--root", str(folder / "root"), "--runroot", str(folder / "run")]
    done = subprocess.run(
        ["podman", *places, "--storage-driver", "vfs", *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- other programs -------------------------------------------------------------------------------


def test_skopeo_reads_what_is_saved(store: Store, tmp_path: Path) -> None:
    made = small(store, "app:1")
    places = {
        "docker-archive": str(saved(store, made, "docker", tmp_path / "d.tar")),
        "oci-archive": str(saved(store, made, "oci", tmp_path / "o.tar")),
        "oci": f"{tmp_path / 'layout'}:app",
    }
    archives.save_layout(store, made, str(tmp_path / "layout"), "app")
    for kind, place in places.items():
        inspect = ["skopeo", "inspect", f"{kind}:{place}"]
        seen = json.loads(subprocess.run(inspect, capture_output=True, check=True).stdout)
        config = json.loads(
            subprocess.run([*inspect, "--config"], capture_output=True, check=True).stdout
        )
        assert config["rootfs"]["diff_ids"] == list(made.diff_ids)
        assert config["config"]["WorkingDir"] == "/etc"
        if kind != "docker-archive":
            assert seen["Digest"] == made.digest


def test_podman_loads_what_is_saved_and_what_podman_saves_is_loaded_and_runs(
    store: Store, tmp_path: Path, podman_folder: Path
) -> None:
    made = small(store, "app:1")
    for kind in ("docker", "oci"):
        path = saved(store, made, kind, tmp_path / f"{kind}.tar")
        assert "docker.io/library/app:1" in podman(podman_folder, "load", "-i", str(path))
        (facts,) = json.loads(podman(podman_folder, "image", "inspect", "app:1"))
        assert facts["RootFS"]["Layers"] == list(made.diff_ids)
        podman(podman_folder, "save", "--format", f"{kind}-archive", "-o", str(path) + "2", "app:1")
        store.prune(named=True)
        assert output_of("load", "-i", str(path) + "2") == "loaded: app:1\n"
        assert store.find("app:1").diff_ids == made.diff_ids
        assert output_of("run", "app:1", "/bin/says", "cat", "note") == "first\n"
        podman(podman_folder, "rmi", "--all", "--force")
        made = small(store, "app:1")


def test_equal_images_give_equal_archives(store: Store, tmp_path: Path) -> None:
    made = small(store, "app:1")
    for kind in ("docker", "oci"):
        first = saved(store, made, kind, tmp_path / "1.tar").read_bytes()
        assert saved(store, made, kind, tmp_path / "2.tar").read_bytes() == first
        archives.load(store, str(tmp_path / "1.tar"))
        if kind == "oci":
            assert store.find("app:1").digest == made.digest


# -- the command ----------------------------------------------------------------------------------


def test_save_and_load_through_pipes_files_and_gzip(store: Store, tmp_path: Path) -> None:
    small(store, "app:1"), small(store, "other:2", note=b"other\n")
    out = subprocess.run([*COMMAND, "save", "app:1", "other:2"], capture_output=True, check=True)
    output_of("save", "-o", str(tmp_path / "o.tar"), "--format", "oci-archive", "app:1", "other:2")
    output_of("save", "-o", str(tmp_path / "lay"), "--format", "oci", "app:1", "other:2")
    assert set(os.listdir(tmp_path)) == {"o.tar", "lay"}
    given = [
        out.stdout, gzip.compress(out.stdout, 1), (tmp_path / "o.tar").read_bytes(),
        str(tmp_path / "lay"), str(tmp_path / "o.tar"),
    ]  # fmt: skip
    for source in given:
        store.prune(named=True)
        if isinstance(source, bytes):
            loaded = subprocess.run(
                [*COMMAND, "load"], input=source, capture_output=True, check=True
            ).stdout.decode()
        else:
            loaded = output_of("load", "-i", source)
        assert loaded == "loaded: app:1\nloaded: other:2\n"
        assert store.find("other:2").config.execution()["WorkingDir"] == "/etc"


def test_a_save_that_fails_leaves_no_file(store: Store, tmp_path: Path) -> None:
    made = small(store, "app:1")
    os.unlink(store.places.blob(made.manifest.layers[1].digest))
    for words in (["--format", "oci-archive"], [], ["--format", "oci"]):
        said = command("save", "-o", str(tmp_path / "x"), *words, "app:1")
        assert said.returncode == 125
        assert "the image store has none such" in said.stderr
        assert not (tmp_path / "x").is_file()
    assert "is no image layout" in command(
        "save", "-o", str(Path(store.root) / "blobs"), "--format", "oci", "app:1"
    ).stderr  # fmt: skip
    assert "No such file" in command("save", "-o", "/no/such/place", "app:1").stderr


# -- references -----------------------------------------------------------------------------------


@pytest.mark.everybody
@pytest.mark.parametrize("kind", ["oci", "oci-archive", "docker-archive"])
def test_an_image_in_a_file_runs_and_is_read_once(kind: str, store: Store, tmp_path: Path) -> None:
    made = small(store, "app:1")
    place = tmp_path / "place"
    if kind == "oci":
        archives.save_layout(store, made, str(place), "app")
    else:
        saved(store, made, kind.removesuffix("-archive"), place)
    store.prune(named=True)

    done = run("", f"{kind}:{place}", program="/bin/says cat note")
    assert done.stdout == "first\n"
    assert store.find(image.resolve(f"{kind}:{place}").digest).names == ()
    looked_at = place / "index.json" if kind == "oci" else place
    before, whole = looked_at.stat(), looked_at.read_bytes()[:6]
    with open(looked_at, "r+b") as file:
        file.write(b"broken")
    os.utime(looked_at, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert run("", f"{kind}:{place}", program="/bin/says cat note").stdout == "first\n"
    # What was damaged and taken away by `repair` is loaded again.
    with open(looked_at, "r+b") as file:
        file.write(whole)
    os.utime(looked_at, ns=(before.st_atime_ns, before.st_mtime_ns))
    (lost, *_) = store.find(image.resolve(f"{kind}:{place}").digest).manifest.layers
    os.unlink(store.places.blob(lost.digest))
    image.resolve(f"{kind}:{place}")
    assert store.has(lost.digest)
    os.utime(looked_at, (1, 1))
    looked_at.write_bytes(b"broken")
    with pytest.raises(ImageError, match="read"):
        image.resolve(f"{kind}:{place}")


def test_of_several_images_one_has_to_be_named(store: Store, tmp_path: Path) -> None:
    first, second = small(store, "app:1"), small(store, "app:2", note=b"second\n")
    path = tmp_path / "both.tar"
    with open(path, "wb") as file:
        archives.save(
            store,
            [(first, "docker.io/library/app:1"), (second, "docker.io/library/app:2")],
            "oci",
            file,
        )
    for name in ("app:2", "docker.io/library/app:2", "2"):
        assert image.resolve(f"oci-archive:{path}:{name}").digest == second.digest
    with pytest.raises(ImageError, match="it has 2 images: name one as"):
        image.resolve(f"oci-archive:{path}")
    with pytest.raises(ImageError, match="it has no such image"):
        image.resolve(f"oci-archive:{path}:app:3")
    with pytest.raises(ImageError, match="no `oci-layout`"):
        image.resolve(f"docker-archive:{path}:app:2")


def test_of_an_index_of_platforms_the_one_of_this_machine_is_taken(
    store: Store, made_archive: Make
) -> None:
    made = small(store, "app:1")
    blobs = {d: store.read(d, 1 << 30) for d in [made.digest, made.manifest.config.digest,
             *(part.digest for part in made.manifest.layers)]}  # fmt: skip

    def archive(architecture: str, *, nested: bool = True) -> str:
        inner = documents.encode(
            documents.Index(
                schema_version=2,
                manifests=[
                    documents.Descriptor(
                        media_type=documents.OCI_MANIFEST, digest=digests.of(b"another"), size=7,
                        platform=documents.Platform(os="linux", architecture="s390x"),
                    ),
                    documents.Descriptor(
                        media_type=documents.OCI_MANIFEST, digest=made.digest,
                        size=made.descriptor.size,
                        platform=documents.Platform(os="linux", architecture=architecture),
                    ),
                ],
            )
        )  # fmt: skip
        outer = documents.encode(
            documents.Index(
                schema_version=2,
                manifests=[documents.describe(inner, documents.OCI_INDEX)],
            )
        )
        layout = b'{"imageLayoutVersion":"1.0.0"}'
        files = [("oci-layout", layout), ("index.json", outer if nested else inner)]
        files += [(f"blobs/sha256/{d[7:]}", data) for d, data in blobs.items()]
        return made_archive([*files, (f"blobs/sha256/{digests.of(inner)[7:]}", inner)])

    path = archive(own_architecture())
    store.prune(named=True)
    (loaded,) = archives.load(store, path)
    assert loaded.digest == made.digest
    assert loaded.index is not None
    assert store.find(f"app@{loaded.index}").digest == made.digest
    assert image.resolve(f"oci-archive:{archive(own_architecture(), nested=False)}").digest == (
        made.digest
    )
    with pytest.raises(ImageError, match=f"no image in it is for linux/{own_architecture()}"):
        archives.load(store, archive("riscv64"))


# -- what strangers made --------------------------------------------------------------------------


def test_a_cut_archive_is_an_error_at_every_place(store: Store, tmp_path: Path) -> None:
    made = put(store, "app:1", [layer({"a": b"x" * 3000})], zipped=False)
    for kind in ("docker", "oci"):
        whole = saved(store, made, kind, tmp_path / f"{kind}.tar").read_bytes().rstrip(b"\0")
        store.prune(named=True)
        for length in range(0, len(whole) - 1, 1499):
            cut = tmp_path / "cut.tar"
            cut.write_bytes(whole[:length])
            with pytest.raises(ImageError):
                archives.load(store, str(cut))
        assert store.images() == []
        made = put(store, "app:1", [layer({"a": b"x" * 3000})], zipped=False)


def test_wrong_bytes_are_not_kept(store: Store, tmp_path: Path) -> None:
    made = put(store, "app:1", [layer({"a": b"secret of the layer" * 100})], zipped=False)
    for kind in ("docker", "oci"):
        path = saved(store, made, kind, tmp_path / "x.tar")
        path.write_bytes(path.read_bytes().replace(b"secret of", b"secreT of", 1))
        store.prune(named=True)
        with pytest.raises(ImageError, match="has the digest"):
            archives.load(store, str(path))
        assert store.images() == []
        assert not store.has(made.manifest.layers[0].digest)
        made = put(store, "app:1", [layer({"a": b"secret of the layer" * 100})], zipped=False)


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ([], "no file in it"),
        ([("a", b"b")], "no `oci-layout`"),
        ([("oci-layout", b"{}")], "of version"),
        ([("oci-layout", b"[]")], "of version"),
        ([("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')], "no such file in it"),
        ([("manifest.json", b"{}")], "`manifest.json` is not as it must be"),
        ([("manifest.json", b"[" * 100_000)], "`manifest.json` is not as it must be"),
        ([("manifest.json", b'[{"Config":"../../etc/passwd","Layers":[]}]')], "no such file in it"),
        ([("manifest.json", b'[{"Config":"c","Layers":["l"]}]'),
          ("c", b'{"architecture":"amd64","os":"linux","rootfs":{"diff_ids":[]}}')], "1 layers"),
    ],
)  # fmt: skip
def test_archives_that_are_none_are_refused(
    files: list[tuple[str, bytes]], why: str, store: Store, made_archive: Make
) -> None:
    with pytest.raises(ImageError, match=why):
        archives.load(store, made_archive(files))
    assert store.images() == []


def test_links_lead_nowhere_out_of_an_archive_or_a_layout(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b'{"imageLayoutVersion":"1.0.0"}')
    bad = tmp_path / "bad.tar"
    with tarfile.open(bad, "w") as archive:
        for name, target in (("manifest.json", str(outside)), ("oci-layout", "oci-layout"),
                             ("index.json", "../../outside")):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    with pytest.raises(ImageError, match="no `oci-layout`"):
        archives.load(store, str(bad))
    layout = tmp_path / "layout"
    layout.mkdir()
    (layout / "oci-layout").symlink_to(outside)
    with pytest.raises(ImageError, match="read `oci-layout` of"):
        archives.load(store, str(layout))


def test_a_header_that_claims_much_takes_no_memory(store: Store, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.tar"
    info = tarfile.TarInfo("x")
    info.size, info.type = 1 << 30, tarfile.XHDTYPE
    with open(bomb, "wb") as file:
        file.write(info.tobuf(tarfile.USTAR_FORMAT))
        file.truncate((1 << 30) + 2048)  # sparse
    with pytest.raises(ImageError, match="an extended header has 1073741824 bytes"):
        archives.load(store, str(bomb))
    fifo = tmp_path / "layout"
    fifo.mkdir()
    os.mkfifo(fifo / "oci-layout")
    with pytest.raises(ImageError, match="no `oci-layout`"):
        archives.load(store, str(fifo))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_and_places_in_archives_are_those_of_tar(form: int, tmp_path: Path) -> None:
    path = tmp_path / "names.tar"
    long = "/".join(["folder" * 8] * 3) + "/file" if form else "a" * 90 + "/" + "b" * 90
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in (("./a/../b", b"1"), (long, b"22"), ("b", b"333")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("x/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "../b"
        archive.addfile(link)
    with open(path, "rb") as file:
        found = members.scan(file.fileno(), str(path))
        for name, data in (("b", b"333"), (long, b"22"), ("x/layer.tar", b"333")):
            member = members.resolve(found, name)
            assert member is not None
            assert os.pread(file.fileno(), member.size, member.offset) == data


def test_the_programs_of_a_saved_image_are_those_of_the_image(store: Store, tmp_path: Path) -> None:
    put(store, "app:1", [layer({"says": program()})], cmd=["/says"])
    output_of("save", "-o", str(tmp_path / "x.tar"), "app:1")
    store.prune(named=True)
    output_of("load", "-i", str(tmp_path / "x.tar"))
    assert output_of("run", "app:1") == "it runs\n"

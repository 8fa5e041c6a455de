"""Corpus C 49 to 53 and 56: manifests, indexes and configurations that a stranger wrote."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any

import pytest
from hostile_registry import REPOSITORY, Server
from made_images import layer, program, put, small

from sandbox_kernel import image, policy, run
from sandbox_kernel.bundle import make
from sandbox_kernel.errors import ImageError, SandboxError
from sandbox_kernel.image import archives, documents, reference, unpacked
from sandbox_kernel.image import digest as digests
from sandbox_kernel.image.documents import Descriptor
from sandbox_kernel.image.registry import pull
from sandbox_kernel.image.registry.configuration import Configuration
from sandbox_kernel.image.store import Store

everybody = pytest.mark.everybody

A = "sha256:" + "a" * 64
CONFIG = {"mediaType": documents.OCI_CONFIG, "digest": A, "size": 2}
LAYER = {"mediaType": documents.OCI_LAYER_GZIP, "digest": A, "size": 7}
MANIFEST = {
    "schemaVersion": 2, "mediaType": documents.OCI_MANIFEST, "config": CONFIG, "layers": [LAYER],
}  # fmt: skip
INDEX = {
    "schemaVersion": 2, "mediaType": documents.OCI_INDEX,
    "manifests": [{**LAYER, "mediaType": documents.OCI_MANIFEST}],
}  # fmt: skip
IMAGE = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [A]}}


def changed(document: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({k: v for k, v in {**document, **fields}.items() if v != "gone"}).encode()


def test_an_image_of_no_layer_has_a_configuration_as_docker_writes_it(store: Store) -> None:
    found = documents.decode_config(changed(IMAGE, rootfs={"type": "layers"}))
    assert found.rootfs.diff_ids == []
    assert json.loads(documents.encode(found))["rootfs"] == {"type": "layers", "diff_ids": []}
    put(store, "empty:1", [])
    assert image.resolve("empty:1").layers == ()
    assert store.prune(named=True).collected.blobs == 2


def described(**fields: Any) -> bytes:
    return changed(MANIFEST, layers=[{**LAYER, **fields}])


def test_the_documents_that_the_others_are_made_of_are_read() -> None:
    assert documents.decode_manifest(changed(MANIFEST)).layers[0].size == 7
    assert documents.decode_index(changed(INDEX)).manifests[0].digest == A
    assert documents.decode_config(changed(IMAGE)).rootfs.diff_ids == [A]
    docker = changed(MANIFEST, mediaType=documents.DOCKER_MANIFEST)
    assert documents.decode(docker, documents.DOCKER_MANIFEST).media_type.startswith("application")


@pytest.mark.parametrize(
    "data",
    [
        changed(MANIFEST, manifests=INDEX["manifests"]),
        changed(INDEX, config=CONFIG),
        b'{"schemaVersion":2,"schemaVersion":2,' + changed(MANIFEST)[1:],
        changed(MANIFEST).replace(b'"size": 2', b'"size": 2, "size": 3'),
        changed(MANIFEST).replace(b'"size": 2', b'"size": NaN'),
        changed(MANIFEST).replace(b'"size": 2', b'"size": Infinity'),
        changed(MANIFEST).replace(b'"size": 2', b'"size": ' + b"9" * 5000),
        changed(MANIFEST).replace(b'"layers"', b'"Layers"'),
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"[" * 100_000,
        b'{"schemaVersion": 1, "fsLayers": [], "history": []}',
        changed(MANIFEST, schemaVersion=3),
        changed(MANIFEST, schemaVersion=True),
        changed(MANIFEST, schemaVersion="2"),
        changed(MANIFEST, mediaType=documents.OCI_INDEX),
        changed(MANIFEST, mediaType="text/html"),
        changed(MANIFEST, layers="gone"),
        changed(MANIFEST, layers={}),
        changed(MANIFEST, layers=[LAYER] * 501),
        changed(MANIFEST, config="gone"),
        changed(MANIFEST, annotations={"a": 1}),
        changed(MANIFEST) + b"{}",
        b"\xff\xfe" + changed(MANIFEST),
        b"null", b"[]", b"", b"<html>",
    ],
)  # fmt: skip
@pytest.mark.cve("CVE-2021-41190")
def test_50_a_document_that_can_be_read_in_two_ways_or_none_is_refused(data: bytes) -> None:
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(ImageError, match="read the image's"):
        documents.decode(data)
    assert time.monotonic() - begin < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_50_a_large_document_is_refused_before_it_is_read() -> None:
    with pytest.raises(ImageError, match="more than"):
        documents.decode(b" " * (5 << 20) + changed(MANIFEST))


def test_50_a_document_must_be_what_its_giver_calls_it() -> None:
    for said in (documents.OCI_INDEX, documents.DOCKER_MANIFEST, "text/html"):
        with pytest.raises(ImageError, match="it came as"):
            documents.decode(changed(MANIFEST), said)
    assert documents.decode(changed(MANIFEST), f"{documents.OCI_MANIFEST}; charset=utf-8")


def index_of(data: bytes, media_type: str = documents.OCI_INDEX) -> bytes:
    """An index of one document, whatever that is called in it."""
    named = {"mediaType": media_type, "digest": digests.of(data), "size": len(data)}
    return changed(INDEX, manifests=[named])


@pytest.mark.parametrize("said", [documents.OCI_INDEX, documents.OCI_MANIFEST])
def test_50_an_index_of_a_registry_that_names_an_index_is_followed_no_further(
    store: Store, said: str
) -> None:
    with Server() as server:
        inner = index_of(server.image.manifest)
        outer = index_of(inner, said)
        place = f"/v2/{REPOSITORY}/manifests"
        for name, data in (("1", outer), (digests.of(inner), inner)):
            server.answers["GET", f"{place}/{name}"] = lambda handler, data=data: handler.reply(
                200, data, {"Content-Type": documents.OCI_INDEX}
            )
        name = reference.registry(server.name)
        with pytest.raises(ImageError, match="its index leads to another index"):
            pull(store, name, configuration=Configuration())
        asked = [request.path.rpartition("/")[2] for request in server.requests]
        assert asked == ["1", digests.of(inner)]
        assert store.images() == []
        # The one that leads to an image is taken by its own name.
        own = reference.registry(f"{name.name}@{digests.of(inner)}")
        assert pull(store, own, configuration=Configuration()).index == digests.of(inner)


def test_50_an_index_of_a_registry_that_leads_back_to_itself_is_refused(store: Store) -> None:
    """No document can have its own digest in it; but a registry may give it under another one."""
    loop = index_of(b"what it names is itself")
    with Server() as server:
        server.answers["*", "*"] = lambda handler: handler.reply(
            200, loop, {"Content-Type": documents.OCI_INDEX}
        )
        with pytest.raises(ImageError, match=f"what came has the digest {digests.of(loop)}"):
            pull(store, reference.registry(server.name), configuration=Configuration())
        assert len(server.requests) == 2
    assert store.images() == []


def test_50_indexes_of_a_layout_lead_to_an_image_within_a_few_steps(
    store: Store, tmp_path: Path
) -> None:
    made = small(store, "app:1")
    place = tmp_path / "layout"
    archives.save_layout(store, made, str(place), "app")
    blobs = place / "blobs/sha256"
    data, media_type = store.read(made.digest), documents.OCI_MANIFEST
    for deep in range(1, 6):
        data, media_type = index_of(data, media_type), documents.OCI_INDEX
        (blobs / digests.of(data).partition(":")[2]).write_bytes(data)
        (place / "index.json").write_bytes(data)
        if deep <= 3:
            assert [each.digest for each in archives.load(store, str(place))] == [made.digest]
        else:
            with pytest.raises(ImageError, match="its indexes are nested deeper than 3"):
                archives.load(store, str(place))
    loop = index_of(b"what it names is itself")
    (blobs / digests.of(b"what it names is itself").partition(":")[2]).write_bytes(loop)
    (place / "index.json").write_bytes(loop)
    with pytest.raises(ImageError, match="in it have another digest"):
        archives.load(store, str(place))


@pytest.mark.parametrize(
    "digest", ["sha256:../..", A.upper(), A[:-1], "md5:" + "a" * 32, "sha512:" + "a" * 64, "", 5],
)  # fmt: skip
@pytest.mark.cve("CVE-2024-3727")
def test_51_a_digest_is_whole_before_anything_is_made_of_it(digest: object, store: Store) -> None:
    with pytest.raises(ImageError, match=r"read the image's|digest"):
        documents.decode(described(digest=digest))
    with pytest.raises(ImageError):
        documents.decode_config(changed(IMAGE, rootfs={"type": "layers", "diff_ids": [digest]}))
    assert store.images() == []


@pytest.mark.parametrize("size", [-1, 2**63, 1 << 45, 1.5, 2.0, "7", None, True])
@pytest.mark.cve("CVE-2021-21272")
def test_52_a_size_is_a_number_of_bytes(size: object) -> None:
    with pytest.raises(ImageError, match="read the image's"):
        documents.decode(described(size=size))


@pytest.mark.parametrize("size", [0, 3, 9])
def test_52_a_blob_of_another_size_is_not_kept(size: int, store: Store) -> None:
    digest = digests.of(b"seven b")
    with pytest.raises(ImageError, match="bytes"), store.writer(digest, size) as writer:
        writer.write(b"seven b")
        writer.commit()
    assert not store.has(digest)


@everybody
def test_49_layers_and_diff_ids_go_together(store: Store) -> None:
    made = put(store, "a:1", [layer({"a": b"1"}), layer({"b": b"2"})])
    first, second = made.config.rootfs.diff_ids
    for diff_ids in ([first], [first, second, second], [second, first]):
        config = documents.encode(
            documents.ImageConfig(
                architecture=made.config.architecture, os="linux",
                rootfs=documents.RootFS(diff_ids=diff_ids),
            )
        )  # fmt: skip
        store.write(config)
        manifest = documents.encode(
            documents.Manifest(
                schema_version=2,
                config=documents.describe(config, documents.OCI_CONFIG),
                layers=made.manifest.layers,
            )
        )
        store.write(manifest)
        descriptor = documents.describe(manifest, documents.OCI_MANIFEST)
        if len(diff_ids) != 2:
            with pytest.raises(ImageError, match="diff ids"):
                store.tag("b:1", descriptor)
        else:  # only the bytes tell
            store.tag("b:1", descriptor)
            with pytest.raises(ImageError, match=r"unpack layer `sha256:"):
                image.resolve("b:1")
            assert store.layer(first) is None
            assert store.layer(second) is None


@everybody
def test_49_a_layer_that_stands_twice_is_one_layer_with_one_diff_id(store: Store) -> None:
    one, two = layer({"a": b"1"}), layer({"b": b"2", ".wh.a": b""})
    made = put(store, "twice:1", [one, two, one])
    found = image.resolve("twice:1")

    assert len(found.layers) == 2
    assert found.layers[1] == store.layer(made.config.rootfs.diff_ids[0])
    with pytest.raises(ImageError, match="two diff ids"):
        documents.check_layers(
            documents.Manifest(
                schema_version=2, config=made.manifest.config,
                layers=[made.manifest.layers[0], made.manifest.layers[0]],
            ),
            documents.ImageConfig(
                architecture="amd64", os="linux",
                rootfs=documents.RootFS(diff_ids=list(made.diff_ids[:2])),
            ),
        )  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {"Entrypoint": "/bin/sh -c"},
        {"Cmd": {"0": "x"}},
        {"Env": ["NO_SIGN"]},
        {"Env": ["=x"]},
        {"Env": ["A=b\0c"]},
        {"Env": "A=b"},
        {"User": 0},
        {"User": "a\0b"},
        {"WorkingDir": "/a\0"},
        {"Volumes": ["/"]},
        {"ExposedPorts": 80},
        {"Labels": {"a": {}}},
        {"Healthcheck": {"Interval": 1.5}},
    ],
)
def test_53_a_configuration_of_wrong_kinds_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ImageError, match="read the image's `configuration`"):
        documents.decode_config(changed(IMAGE, config=fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "nobody-knows"},
        {"user": "-1"},
        {"user": "4294967296"},
        {"user": "root:../../etc"},
        {"working_dir": "/proc/self/fd/7"},
        {"working_dir": "/proc"},
        {"working_dir": "../../x"},
        {"working_dir": "/a/../../proc"},
        {"working_dir": "relative"},
    ],
)
def test_53_a_user_or_folder_that_can_not_be_starts_nothing(
    fields: dict[str, Any], store: Store
) -> None:
    put(store, "bad:1", [layer({"says": program()})], cmd=["/says"], **fields)
    with pytest.raises(SandboxError):
        run("", "bad:1", program="/says", check=True)


@everybody
def test_53_volumes_hooks_and_loader_variables_have_no_effect_outside(store: Store) -> None:
    put(
        store, "odd:1", [layer({"says": program(), "etc": None})],
        cmd=["/says"], env=["LD_PRELOAD=/evil.so", "PYTHONPATH=/evil"], user="0",
        volumes={"/": {}, "/proc": {}, "/etc": {}}, labels={"oci.hooks": "x"}, shell=["/evil"],
    )  # fmt: skip
    found = image.resolve("odd:1")
    plan = policy.plan(image="odd:1")
    made = make(plan, found)

    assert [m["destination"] for m in made.config["mounts"] if m["type"] == "bind"] == []
    assert "hooks" not in made.config
    assert made.config["annotations"] == {}
    done = run("", "odd:1", program="/says")
    assert done.stdout == "it runs\n"


@everybody
@pytest.mark.cve("CVE-2024-21626")
def test_53_a_link_as_working_folder_stays_inside(store: Store) -> None:
    put(
        store, "link:1", [layer({"says": program(), "out": "../../../../etc", "etc": None,
                                 "etc/note": b"of the image"})],
        cmd=["/says"], working_dir="/out",
    )  # fmt: skip
    done = run("", "link:1", program="/says cat note")
    assert done.stdout == "of the image"


def test_56_addresses_of_foreign_layers_are_never_fetched(store: Store) -> None:
    made = small(store)
    urls = ["http://169.254.169.254/latest", "file:///etc/passwd"]
    foreign = Descriptor(
        media_type="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        digest=digests.Digest(A), size=7, urls=urls,
    )  # fmt: skip
    manifest = documents.encode(
        documents.Manifest(
            schema_version=2, config=made.manifest.config, layers=[foreign, made.manifest.layers[1]]
        )
    )
    store.write(manifest)
    with pytest.raises(ImageError, match="is not there"):
        store.tag("foreign:1", documents.describe(manifest, documents.OCI_MANIFEST))
    assert not store.has(foreign.digest)
    read = documents.decode_manifest(manifest).layers[0]
    assert read.urls == urls


def test_an_image_for_another_machine_says_so(store: Store) -> None:
    config = documents.decode_config(changed(IMAGE, architecture="s390x"))
    with pytest.raises(ImageError, match="linux/s390x, and this machine is linux/"):
        unpacked.refuse_other_machines("x:1", config)
    with pytest.raises(ImageError, match="containers here are Linux"):
        unpacked.refuse_other_machines("x:1", documents.decode_config(changed(IMAGE, os="windows")))

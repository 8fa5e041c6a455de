"""Promises about the names of images: digests, and references of every kind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_kernel.errors import ImageError
from sandbox_kernel.grammar import image_path, image_registry, whole_image_name
from sandbox_kernel.image import digest, reference

A = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("typed", "meant", "familiar"),
    [
        ("python", "docker.io/library/python:latest", "python:latest"),
        ("python:3.12-slim", "docker.io/library/python:3.12-slim", "python:3.12-slim"),
        ("user/app", "docker.io/user/app:latest", "user/app:latest"),
        ("docker.io/python", "docker.io/library/python:latest", "python:latest"),
        ("index.docker.io/library/python:3", "docker.io/library/python:3", "python:3"),
        ("ghcr.io/o/n:tag", "ghcr.io/o/n:tag", "ghcr.io/o/n:tag"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("localhost:5000/x:1", "localhost:5000/x:1", "localhost:5000/x:1"),
        ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
        ("GHCR.io/x", "ghcr.io/x:latest", "ghcr.io/x:latest"),
        ("LOCALHOST/x", "localhost/x:latest", "localhost/x:latest"),
        (f"app@{A}", f"docker.io/library/app@{A}", f"app@{A}"),
        (f"app:1@{A}", f"docker.io/library/app:1@{A}", f"app:1@{A}"),
        ("a__b/c.d/e--f", "docker.io/a__b/c.d/e--f:latest", "a__b/c.d/e--f:latest"),
        ("docker.io/localhost/x", "docker.io/localhost/x:latest", "docker.io/localhost/x:latest"),
    ],
)
def test_names_are_read_as_docker_reads_them(typed: str, meant: str, familiar: str) -> None:
    found = reference.registry(typed)

    assert str(found) == meant
    assert found.familiar == familiar
    assert reference.registry(found.familiar) == reference.registry(str(found)) == found


@pytest.mark.parametrize(
    "typed",
    [
        "", "-x", "a b", "UPPER", "a/", "/a", "a//b", "a:", ":a", "a:b:c", "a@", "a@sha256:zz",
        f"a@{A.upper()}", "a@md5:" + "a" * 32, "..", "a/../b", "./a", "a:-x", "a:" + "b" * 129,
        "a" * 300, "a" * 64, "host:99999/x", "host:0/x", "h_st.x:1/y", "ä", "a\nb", "a/b\0",
        "-.io/x", "x.io/A", "a..b", "a_-b", "рython", "Registry/x", f"a:1@{A}@{A}",
        "oci:", "oci::x", "oci:d:", "oci:d:a b", "build:", "build:#F", "build:x#", "dir:", "dir: ",
        "packages:", "packages: ,a", "requirements:", "oci-archive:", "docker-archive:f:@",
    ],
)  # fmt: skip
def test_86_what_is_no_reference_is_refused(typed: str) -> None:
    with pytest.raises(ImageError, match=r"read (image reference|digest)"):
        reference.parse(typed)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("host", reference.Host()),
        ("scratch", reference.Scratch()),
        ("dir:/srv/a:b", reference.Directory("/srv/a:b")),
        ("oci:/a/b", reference.Layout("/a/b")),
        ("oci:a:docker.io/x/y:1", reference.Layout("a", "docker.io/x/y:1")),
        ("oci-archive:x.tar:1", reference.Archive("oci", "x.tar", "1")),
        ("docker-archive:x.tar", reference.Archive("docker", "x.tar")),
        ("build:.", reference.Build(".")),
        ("build:a/b#Containerfile", reference.Build("a/b", "Containerfile")),
        (f"build:a@b#F@{A}", reference.Build("a@b", "F", digest.parse(A))),
        ("requirements:r.txt", reference.Requirements("r.txt")),
        ("pyproject:.", reference.Pyproject(".")),
        ("conda:environment.yml", reference.Conda("environment.yml")),
        ("packages: numpy==2.1, pandas", reference.Packages(("numpy==2.1", "pandas"))),
        ("packages:a>=1,<2,b[c,d]", reference.Packages(("a>=1,<2", "b[c,d]"))),
        (A, reference.Identity(digest.Digest(A))),
    ],
)
def test_every_kind_of_reference_is_known(typed: str, meant: reference.Reference) -> None:
    assert reference.parse(typed) == meant
    assert reference.parse(str(meant)) == meant


@given(st.text(max_size=60))
def test_any_text_is_a_reference_that_reads_back_or_an_error(text: str) -> None:
    try:
        found = reference.parse(text)
    except ImageError:
        return
    assert reference.parse(str(found)) == found


WORDS = st.sampled_from(["docker", "io", "localhost", "library", "index"]) | st.text(
    "abz09", min_size=1, max_size=5
)
JOINTS = st.sampled_from([".", "_", "__", "-", "---", "/"])


@given(WORDS, st.lists(st.tuples(JOINTS, WORDS).map("".join), max_size=8))
def test_the_ceilings_and_the_parser_mean_the_same_registry(first: str, more: list[str]) -> None:
    name = "".join([first, *more])
    assert reference.REPOSITORY.fullmatch(name)
    try:
        found = reference.registry(name)
    except ImageError:
        return
    assert image_registry(name) == found.authority
    assert reference.registry(whole_image_name(name)) == found


def test_a_path_is_found_in_a_reference_as_the_parser_finds_it() -> None:
    assert image_path("oci:a/b:x:1") == ("oci", "a/b", ":x:1")
    assert image_path("build:a:b#F") == ("build", "a:b", "#F")
    assert image_path(f"build:a#F@{A}") == ("build", "a", f"#F@{A}")
    assert image_path(f"build:a@{A}") == ("build", "a", f"@{A}")
    assert image_path("build:a@b") == ("build", "a@b", "")
    assert image_path("dir:a:b#c") == ("dir", "a:b#c", "")
    assert image_path("python:3") == ("", "", "python:3")


@pytest.mark.parametrize(
    "text",
    [
        "sha256:../../etc", "sha256:" + "A" * 64, "sha256:" + "a" * 63, "sha256:" + "a" * 65,
        "md5:" + "a" * 32, "sha512:" + "a" * 64, "sha256:" + "a" * 64 + "\n", "a" * 64, "", None,
        "sha256:" + "а" * 64, "SHA256:" + "a" * 64, 7,
    ],
)  # fmt: skip
def test_51_a_digest_has_one_spelling(text: object) -> None:
    with pytest.raises(ImageError, match="read digest"):
        digest.parse(text)


def test_a_digest_names_bytes() -> None:
    assert (
        digest.of(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
    assert digest.parse("sha512:" + "0" * 128) == "sha512:" + "0" * 128

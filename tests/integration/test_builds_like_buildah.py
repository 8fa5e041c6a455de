"""Small Containerfiles over the whole syntax, built by buildah and by us: equal trees and words.

Everything in an image is compared: each file with its mode, owner, content, extended attributes,
time and other names, and each word of the configuration and of the history. What differs is listed
in `DIFFERENCES` with its reason, and is there in each case for which it is listed.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import ANY

import built_images
import pytest
from backports import zstd
from built_images import Buildah, Node

from sandbox_kernel.image.layers import remove_tree
from sandbox_kernel.image.store import Store

BASE = "localhost/base:1"

LONG_AGO = 1_000_000_000
"""The time of everything in the context: what is later is a time of the build."""


class Difference(NamedTuple):
    """What differs in a case; `case` may be a pattern."""

    case: str
    fact: str
    ours: Any
    theirs: Any
    why: str


_LABEL = "a label of buildah about itself"
_DOCKERS = (
    "of docker's first format: what the image was made of, which says nothing about what it is"
)
_TIME = "when it was built, which layers say of what they made, and so do their digests"
_WORKDIR = (
    "docker makes a folder of WORKDIR at once; buildah with `--layers` in the next RUN, or never"
)
_NOTHING = "a RUN that changes no file makes no layer, as BuildKit leaves empty layers out"
DIFFERENCES = (
    Difference("*", "config Labels io.buildah.version", None, ANY, _LABEL),
    Difference("*", "config Hostname", None, ANY, _DOCKERS),
    Difference("*", "container", None, ANY, _DOCKERS),
    Difference("*", "container_config", None, ANY, _DOCKERS),
    Difference("*", "parent", None, ANY, _DOCKERS),
    Difference("*", "created", ANY, ANY, _TIME),
    Difference("*", "rootfs", ANY, ANY, _TIME),
    Difference("copy-relative", "history 1", "layer", "empty", _WORKDIR),
    Difference("copy-dot", "history 1", "layer", "empty", _WORKDIR),
    Difference("copy-dot", "history 3", "empty", "layer", _NOTHING),
    Difference("words", "history 8", "layer", "empty", _WORKDIR),
    Difference("words", "history 10", "empty", "layer", _WORKDIR),
    Difference("words", "file tmp/sub", ANY, ANY, _WORKDIR + ": so it is of the user of that RUN"),
    Difference("workdir", "file a", ANY, None, _WORKDIR),
    Difference("workdir", "file a/b", ANY, None, _WORKDIR),
    Difference("workdir", "history 1", "layer", "empty", _WORKDIR),
    Difference("workdir-of-a-user", "history 2", "layer", "empty", _WORKDIR),
    Difference("workdir-of-a-user", "history 3", "empty", "layer", _WORKDIR),
    Difference("run-nothing", "history 1", "empty", "layer", _NOTHING),
    Difference(
        "expose-range",
        "config ExposedPorts",
        {"8000/tcp": {}, "8001/tcp": {}, "9000/udp": {}},
        {"8000-8001/tcp": {}, "9000/udp": {}},
        "each port is named, as docker does it; buildah writes the range, which no tool reads",
    ),
    Difference(
        "volume-that-is-changed",
        "file data/x",
        ANY,
        None,
        "buildah forgets what a RUN changes in a volume; the reference: BuildKit keeps it",
    ),
    Difference(
        "shell-of-cmd",
        "config Cmd",
        ["/bin/sh", "-e", "-c", "echo x"],
        ["/bin/sh", "-c", "echo x"],
        "SHELL is for CMD, too, says the reference; this buildah forgets it",
    ),
)

CASES: dict[str, str] = {}
CASES["copy-file"] = "COPY one.txt /one"
CASES["copy-into-folder"] = "COPY one.txt /new/folder/"
CASES["copy-folder"] = "COPY folder /data"
CASES["copy-folder-into-folder"] = "COPY folder/ /data/"
CASES["copy-many"] = "COPY one.txt two.txt folder /data/"
CASES["copy-pattern"] = "COPY *.txt /data/"
CASES["copy-pattern-in-folder"] = "COPY folder/*/d?ep.txt /data/"
CASES["copy-class"] = "COPY [ot]*.txt /data/"
CASES["copy-json"] = 'COPY ["with blank.txt", "/data/x y"]'
CASES["copy-relative"] = "WORKDIR /srv/app\nCOPY one.txt sub/\nRUN pwd > where"
CASES["copy-dot"] = "WORKDIR /srv\nCOPY folder .\nRUN true"
CASES["copy-owner"] = "COPY --chown=app:staff folder /data/"
CASES["copy-owner-numbers"] = "COPY --chown=7:8 one.txt two.txt /data/"
CASES["copy-mode"] = "COPY --chmod=0640 one.txt /data/one"
CASES["copy-over-link"] = "RUN ln -s /home/app /link\nCOPY one.txt /link/"
CASES["copy-over-file"] = "RUN echo old > /one && chmod 600 /one\nCOPY one.txt /one"
CASES["copy-merge"] = "COPY folder /data\nCOPY other /data"
CASES["copy-everything"] = "COPY . /all"
CASES["copy-links"] = "COPY links /data"
CASES["copy-links-of-several-sources"] = "COPY links/a links/sub /data/"
CASES["copy-links-without-the-first"] = "COPY .dockerignore links /data/"
CASES["copy-links-with-owner"] = "COPY --chown=app:staff links /data/"
CASES["copy-links-over-files"] = "COPY links /data\nCOPY links /data"
CASES["copy-links-of-a-stage"] = (
    "RUN mkdir /d && echo x > /d/a && ln /d/a /d/b && mkdir /d/e && ln /d/a /d/e/c\n"
    "FROM localhost/base:1\nCOPY --from=first /d /data"
)
CASES["copy-attributes"] = "COPY marked /data\nCOPY marked/file /one"
CASES["copy-attributes-of-a-stage"] = (
    "ADD marked.tar /d\nFROM localhost/base:1\nCOPY --from=first /d /data"
)
CASES["add-attributes"] = "ADD marked.tar /data"
CASES["add-links"] = "ADD links.tar /data"
CASES["add-file"] = "ADD one.txt /one"
CASES["add-archive"] = "ADD archive.tar.gz /unpacked/"
CASES["add-archive-plain"] = "ADD plain.tar /unpacked"
CASES["add-archives-by-a-pattern"] = "ADD plain.t* archive* o*.txt /unpacked/"
CASES["add-old-archive"] = "ADD old.tar /unpacked/"
CASES["add-what-only-looks-packed"] = (
    "ADD text.gz text.bz2 text.xz text.zst empty.gz damaged.gz zeros.tar /kept/"
)
CASES["copy-archive"] = "COPY archive.tar.gz /kept/"
CASES["run-shell"] = "RUN echo one > /one && mkdir -p /a/b && chmod 700 /a"
CASES["run-exec"] = 'RUN ["/bin/sh", "-c", "echo $0 $HOME > /out", "zero"]'
CASES["run-continued"] = "RUN echo one \\\n  # comment\n  two \\\n\n  three > /out"
CASES["run-remove"] = "RUN rm -rf /home /etc/group && mkdir /home && rm -r /var"
CASES["run-links"] = "RUN echo x > /x && ln /x /y && ln -s x /z"
CASES["run-owner"] = "RUN mkdir /d && chown 5:6 /d && chmod 2775 /d && touch /d/f"
CASES["run-user"] = "USER app\nRUN id > /home/app/id || id > /tmp/id\nRUN cd /tmp && touch mine"
CASES["run-user-numbers"] = "USER 12:34\nRUN cd /tmp && touch mine && id -u > who"
CASES["run-environment"] = "ENV A=1 B='two words'\nRUN echo $A-$B > /out && env | grep ^A= > /env"
CASES["run-argument"] = "ARG WHAT=thing\nRUN echo $WHAT > /out"
CASES["run-large"] = "RUN dd if=/dev/zero of=/zeros bs=1024 count=3000 2>/dev/null"
CASES["run-tmpfs-mount"] = "RUN --mount=type=tmpfs,target=/scratch touch /scratch/x && touch /out"
CASES["run-bind-mount"] = "RUN --mount=type=bind,source=folder,target=/mnt cat /mnt/a.txt > /out"
CASES["environment-modifiers"] = (
    "ENV A=x EMPTY=\nENV B=${A:-no} C=${NONE:-yes} D=${A:+there} E=${EMPTY:-e}\n"
    "ENV F=\\$A G='$A' H=\"$A\""
)
CASES["environment-order"] = "ENV A=1\nENV A=2 B=$A\nENV C=$A$B"
CASES["environment-old-form"] = "ENV KEY a value  with blanks"
CASES["label"] = 'LABEL a=1 "b c"="two words" d=\'$X\'\nLABEL a=2'
CASES["words"] = (
    'RUN mkdir /data /more\nENTRYPOINT ["/bin/sh", "-c"]\nCMD echo hello\n'
    'EXPOSE 80 53/udp\nVOLUME /data "/more"\n'
    "STOPSIGNAL SIGINT\nWORKDIR /tmp\nWORKDIR sub\nUSER app:staff\nRUN true"
)
CASES["entrypoint-shell"] = 'ENTRYPOINT echo $HOME\nCMD ["a"]'
CASES["shell"] = 'SHELL ["/bin/sh", "-e", "-c"]\nRUN echo $- > /out'
CASES["shell-of-cmd"] = 'SHELL ["/bin/sh", "-e", "-c"]\nCMD echo x'
CASES["entrypoint-after-cmd"] = 'CMD ["a"]\nENTRYPOINT ["b"]'
CASES["workdir"] = "WORKDIR /a/b"
CASES["workdir-of-a-user"] = "USER app\nWORKDIR /home/app/new/sub\nRUN true"
CASES["expose-range"] = "EXPOSE 8000-8001 9000/udp"
CASES["volume"] = "VOLUME /data /more"
CASES["volume-that-is-changed"] = "VOLUME /data\nRUN mkdir -p /data && echo x > /data/x"
CASES["run-nothing"] = "RUN true"
CASES["healthcheck"] = "HEALTHCHECK --interval=1m30s --timeout=5s --retries=4 CMD test -e /x"
CASES["healthcheck-none"] = "HEALTHCHECK NONE"
CASES["onbuild"] = "ONBUILD RUN touch /later\nONBUILD COPY . /x"
CASES["maintainer"] = "MAINTAINER A. Person <a@example.org>"
CASES["stages"] = (
    "RUN echo built > /result\nFROM localhost/base:1 AS unused\nRUN false\n"
    "FROM localhost/base:1\nCOPY --from=0 /result /etc/../out/result\nCOPY --from=0 /home /home2"
)
CASES["stage-names"] = (
    "RUN mkdir /d && echo 1 > /d/f && ln -s f /d/l && chown -R 3:4 /d\n"
    "FROM localhost/base:1 AS second\nCOPY --from=first /d /copied\n"
    "FROM second\nRUN ls /copied > /out"
)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("context")
    (made / "one.txt").write_text("one\n")
    (made / "two.txt").write_text("two\n")
    (made / "two.txt").chmod(0o755)
    (made / "with blank.txt").write_text("blank\n")
    (made / "folder/sub").mkdir(parents=True)
    (made / "folder/a.txt").write_text("a\n")
    (made / "folder/sub/deep.txt").write_text("deep\n")
    (made / "folder/link").symlink_to("a.txt")
    (made / "folder/.hidden").write_text("hidden\n")
    (made / "folder/sub").chmod(0o750)
    (made / "other/sub").mkdir(parents=True)
    (made / "other/a.txt").write_text("another a\n")
    (made / "other/sub/more.txt").write_text("more\n")
    (made / "ignored").mkdir()
    (made / "ignored/x").write_text("x")
    (made / "ignored/keep").write_text("x")
    (made / ".dockerignore").write_text("# comment\nignored/*\n!ignored/keep\n**/*.tmp\n")
    (made / "folder/x.tmp").write_text("x")
    for name, mode in (("archive.tar.gz", "w:gz"), ("plain.tar", "w:")):
        with tarfile.open(made / name, mode) as archive:
            for path, owner in (("top/", 0), ("top/file", 11), ("top/own/", 12)):
                member = tarfile.TarInfo(path)
                member.uid = member.gid = owner
                member.mode = 0o751
                member.type = tarfile.DIRTYPE if path.endswith("/") else tarfile.REGTYPE
                data = b"" if path.endswith("/") else b"content"
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    (made / "links/sub").mkdir(parents=True)
    (made / "links/a").write_text("one file\n")
    for name in ("b", "sub/c", "0.tmp"):  # what is first of all is ignored
        (made / "links" / name).hardlink_to(made / "links/a")
    with tarfile.open(made / "links.tar", "w") as archive:
        archive.add(made / "links", "links")
    (made / "marked").mkdir()
    (made / "marked/file").write_text("marked\n")
    os.setxattr(made / "marked/file", "user.one", b"1")
    os.setxattr(made / "marked", "user.folder", b"2")
    with tarfile.open(made / "marked.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for path in ("folder", "folder/file"):
            member = archive.gettarinfo(made / ("marked/file" if "/" in path else "marked"), path)
            member.pax_headers = {"SCHILY.xattr.user.one": "1", "SCHILY.xattr.user.two": path}
            with (made / "marked/file").open("rb") as data:
                archive.addfile(member, data if member.isfile() else None)
    plain = (made / "plain.tar").read_bytes()
    (made / "old.tar").write_bytes(without_a_mark(plain))
    text = b"no archive, but longer than the header of one\n" * 20
    for ending, pack in (("gz", gzip), ("bz2", bz2), ("xz", lzma), ("zst", zstd)):
        (made / f"text.{ending}").write_bytes(pack.compress(text))
    (made / "empty.gz").write_bytes(gzip.compress(b""))
    (made / "damaged.gz").write_bytes(gzip.compress(plain)[:9] + b"damaged" * 100)
    (made / "zeros.tar").write_bytes(bytes(10240))
    for above, _, names in os.walk(made, topdown=False):
        for name in (*names, "."):
            os.utime(Path(above, name), (LONG_AGO, LONG_AGO), follow_symlinks=False)
    return made


def without_a_mark(archive: bytes) -> bytes:
    """An archive whose first header is as it was before POSIX: without `ustar`."""
    header = bytearray(archive[:512])
    header[257:512] = bytes(255)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + archive[512:]


@pytest.fixture(scope="module")
def builders(
    tmp_path_factory: pytest.TempPathFactory, context: Path
) -> Iterator[tuple[Store, Buildah]]:
    folder = tmp_path_factory.mktemp("builders")
    place = tempfile.mkdtemp(prefix="sandbox-kernel-images-", dir="/var/tmp")
    root = built_images.make_root(folder / "root-of-base")
    text = "FROM scratch\nCOPY . /\n"
    store = Store.open(f"{place}/images")
    (folder / "buildah").mkdir()
    buildah = Buildah(folder / "buildah")
    buildah.build(root, text, name="base:1")
    built_images.built(store, root, text, name=BASE)
    yield store, buildah
    buildah.close()
    remove_tree(f"{place}/images")
    os.rmdir(place)


@pytest.mark.parametrize("case", CASES)
def test_an_image_is_as_buildah_makes_it(
    case: str, builders: tuple[Store, Buildah], context: Path
) -> None:
    store, buildah = builders
    text = f"FROM {BASE} AS first\n{CASES[case]}\n"
    buildah.build(context, text, "--layers")
    theirs = facts(*buildah.result())
    image, _ = built_images.built(store, context, text)
    ours = facts(built_images.files(store, image), built_images.document(store, image))
    differ = {
        fact: (ours.get(fact), theirs.get(fact))
        for fact in sorted({*ours, *theirs})
        if ours.get(fact) != theirs.get(fact)
    }
    listed = {one.fact: (one.ours, one.theirs) for one in DIFFERENCES if fnmatch(case, one.case)}
    assert differ == listed


def test_each_difference_is_of_a_case_and_has_a_reason() -> None:
    for one in DIFFERENCES:
        assert any(fnmatch(case, one.case) for case in CASES) and one.why, one


def facts(tree: dict[str, Node], document: dict[str, Any]) -> dict[str, Any]:
    """Everything that an image is, by name. What is empty is as what is not there."""
    found: dict[str, Any] = {}
    for path, node in tree.items():
        kept = node.time if node.time <= LONG_AGO else "of the build"
        found[f"file {path}"] = node._replace(time=kept)  # type: ignore[arg-type]
    for number, step in enumerate(document.pop("history")):
        found[f"history {number}"] = "empty" if step.get("empty_layer") else "layer"
    config = document.pop("config")
    for item in config.pop("Env", None) or ():  # its order means nothing
        name, _, value = item.partition("=")
        found[f"config Env {name}"] = value
    for name, value in (config.pop("Labels", None) or {}).items():
        found[f"config Labels {name}"] = value
    found |= {f"config {name}": value for name, value in config.items()}
    found |= document
    return {name: value for name, value in found.items() if value not in (None, [], {}, False, "")}

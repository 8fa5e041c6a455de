"""Small Containerfiles over the whole syntax, built by buildah and by us: equal trees and words.

What may differ is listed in `DIFFERENCES`, each with its reason.
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
from pathlib import Path
from typing import Any

import built_images
import pytest
from backports import zstd
from built_images import Buildah, Node

from sandbox_kernel.image.layers import remove_tree
from sandbox_kernel.image.store import Store

BASE = "localhost/base:1"

DIFFERENCES = {
    "io.buildah.version": "a label of buildah about itself",
}

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
CASES["copy-attributes-of-a-stage"] = (
    "ADD marked.tar /d\nFROM localhost/base:1\nCOPY --from=first /d /data"
)
CASES["add-attributes"] = "ADD marked.tar /data"
CASES["add-links"] = "ADD links.tar /data"
CASES["add-file"] = "ADD one.txt /one"
CASES["add-archive"] = "ADD archive.tar.gz /unpacked/"
CASES["add-archive-plain"] = "ADD plain.tar /unpacked"
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
# The folders of VOLUME are made first: buildah makes them, docker and we do not.
CASES["words"] = (
    'RUN mkdir /data /more\nENTRYPOINT ["/bin/sh", "-c"]\nCMD echo hello\n'
    'EXPOSE 80 53/udp\nVOLUME /data "/more"\n'
    "STOPSIGNAL SIGINT\nWORKDIR /tmp\nWORKDIR sub\nUSER app:staff\nRUN true"
)
CASES["entrypoint-shell"] = 'ENTRYPOINT echo $HOME\nCMD ["a"]'
# Without a CMD: this buildah gives it `/bin/sh -c` whatever SHELL says, against the reference.
CASES["shell"] = 'SHELL ["/bin/sh", "-e", "-c"]\nRUN echo $- > /out'
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
    buildah.build(context, text)
    their_files, their_config = buildah.result()
    image, _ = built_images.built(store, context, text)
    assert _compared(built_images.files(store, image)) == _compared(their_files)
    ours = image.config.execution()
    assert _words(ours) == _words(their_config["config"])
    assert (image.config.author or "") == their_config.get("author", "")


def _compared(tree: dict[str, Node]) -> dict[str, Node]:
    return {path: node for path, node in sorted(tree.items()) if path != ""}


def _words(config: dict[str, Any]) -> dict[str, Any]:
    """What is set; ENV by name, since its order means nothing."""
    found = {key: value for key, value in config.items() if value not in (None, "", [], {}, False)}
    found["Env"] = dict(item.partition("=")[::2] for item in found.get("Env", ()))
    labels = found.get("Labels", {})
    found["Labels"] = {key: labels[key] for key in labels if key not in DIFFERENCES}
    for name in ("Hostname", "Domainname", "Image", "AttachStdin", "ArgsEscaped"):
        found.pop(name, None)
    return found

"""COPY and ADD: sources become records, records become files in a container, files a layer."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import stat
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from msgspec import Struct

from sandbox_kernel.building import addresses, cache
from sandbox_kernel.building.cache import Result
from sandbox_kernel.building.state import Layer, State, timestamp
from sandbox_kernel.building.work import Work
from sandbox_kernel.containerfile import modes, words
from sandbox_kernel.containerfile.ignore import Ignored, rule
from sandbox_kernel.containerfile.instructions import Copy
from sandbox_kernel.containerfile.lines import HereDocument
from sandbox_kernel.containerfile.source import Piece, Source
from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.runtime import transfer

_SPECIAL = re.compile(r"[*?\[\\]")  # in a pattern


class Part(Struct, frozen=True):
    """One source: what of it counts for the cache, and how its records are written."""

    identity: Any
    write: Callable[[int], None]


def copy(work: Work, state: State, made: Copy, origin: State | None) -> tuple[Result, bool]:
    """The layer of a COPY or ADD, and whether it was there. `origin` is what `--from` names."""
    expand = _Values(state, work.escape)
    destination = _destination(made, state, expand)
    owner = _owner(work, state, made, expand)
    mode = _mode(made, expand)
    excluded = _excluded(made, expand)
    with ExitStack() as stack:
        parts = [
            *_documents(made, state, work.escape),
            *_files(work, stack, made, origin, expand, excluded),
        ]
        below = [] if made.link else state.layers
        key = cache.key(
            step="copy",
            below=[layer.diff_id for layer in below],
            parts=[part.identity for part in parts],
            destination=destination,
            owner=owner,
            mode=mode,
            exclude=[expand.of(piece) for piece in made.exclude],
            parents=made.parents,
            epoch=work.request.epoch,
        )
        found = work.cached(key)
        if found is not None:
            return found, True
        order = {"destination": destination, "owner": owner, "mode": mode}

        def give(sink: int) -> None:
            for part in parts:
                part.write(sink)

        from sandbox_kernel.building import workshop

        with workshop.bench(work, below) as bench:
            bench.place(order, give)
            layer = bench.layer(work.store, work.request.epoch)
    return work.keep(key, Result(timestamp(work.request.epoch), layer)), False


def snapshot(work: Work, origin: State | None, source: str) -> tuple[Layer, str]:
    """A source of `RUN --mount=type=bind` as a layer of its own, and where in it it lies.

    It is a copy of what the context or the stage has there, looked up in there alone
    (CVE-2024-1753).
    """
    if origin is None:
        part = _of_context(work, [source], None, parents=True)
    else:
        part = _of_stage(work, origin, [source], (), parents=True)
    key = cache.key(step="snapshot", part=part.identity)
    found = work.cached(key)
    if found is None:
        from sandbox_kernel.building import workshop

        with workshop.bench(work, []) as bench:
            order = {"destination": "/snapshot/", "owner": None, "mode": None}
            bench.place(order, part.write)
            layer = bench.layer(work.store, work.request.epoch)
        found = work.keep(key, Result(timestamp(work.request.epoch), layer))
    assert found.layer is not None
    return found.layer, f"snapshot{source}".rstrip("/")


class _Values:
    """Values of an instruction with their variables replaced."""

    def __init__(self, state: State, escape: str) -> None:
        self._lookup = state.lookup
        self._escape = escape

    def of(self, piece: Piece) -> str:
        return words.expand(piece, self._lookup, self._escape)


def _destination(made: Copy, state: State, expand: _Values) -> str:
    text = expand.of(made.destination)
    if not text or "\0" in text:
        made.destination.fail("a destination is a path")
    whole = posixpath.join(state.workdir, text)
    clean = posixpath.normpath(whole)
    if clean.startswith("//"):
        clean = clean[1:]
    as_folder = text.endswith(("/", "/.")) or text in (".", "..") or clean == "/"
    if len(made.sources) > 1 and not as_folder:
        made.destination.fail("with several sources the destination is a folder: end it with `/`")
    return clean.rstrip("/") + "/" if as_folder else clean


def _owner(work: Work, state: State, made: Copy, expand: _Values) -> str | None:
    """`--chown`. A layer by itself has no accounts: there names are looked up in what is below."""
    if made.owner is None:
        return None
    owner = expand.of(made.owner)
    if not made.link or owner.replace(":", "").isdecimal():
        return owner
    from sandbox_kernel.building import workshop

    with workshop.bench(work, state.layers) as bench:
        return bench.owner(owner)


def _mode(made: Copy, expand: _Values) -> int | list[modes.Clause] | None:
    if made.mode is None:
        return None
    text = expand.of(made.mode)
    mode = modes.read(text)
    if mode is None:
        made.mode.fail(f"`--chmod={text[:40]}` is no mode such as 0755 or u=rwX,go=rX")
    return mode


def _excluded(made: Copy, expand: _Values) -> Ignored | None:
    if not made.exclude:
        return None
    return Ignored(rule(expand.of(piece), piece.place) for piece in made.exclude)


def _documents(made: Copy, state: State, escape: str) -> list[Part]:
    """Here-documents: files that stand in the Containerfile itself."""
    parts = []
    for document in made.sources:
        if not isinstance(document, HereDocument):
            continue
        text = document.content
        if document.expand:
            place = document.place
            source = Source(place.file, [(text, place.line + 1, 1)])
            text = words.expand_document(Piece(text, source, 0), state.lookup, escape)
        parts.append(_of_bytes(document.name, text.encode("utf-8", "surrogateescape")))
    return parts


def _of_bytes(name: str, data: bytes, *, mode: int = 0o644, mtime: int = 0) -> Part:
    def write(sink: int) -> None:
        transfer.write_record(sink, {"kind": "source", "name": name, "folder": False, "into": ""})
        record = {"kind": "file", "path": "", "mode": mode, "mtime": mtime}
        transfer.write_record(sink, record)
        for at in range(0, len(data), transfer.PIECE):
            transfer.write_piece(sink, data[at : at + transfer.PIECE])
        transfer.write_piece(sink, b"")

    return Part(["bytes", name, hashlib.sha256(data).hexdigest(), mode], write)


def _files(
    work: Work,
    stack: ExitStack,
    made: Copy,
    origin: State | None,
    expand: _Values,
    excluded: Ignored | None,
) -> list[Part]:
    """Sources that are no here-documents, in their order."""
    parts: list[Part] = []
    patterns: list[str] = []
    for source in made.sources:
        if isinstance(source, HereDocument):
            continue
        text = expand.of(source)
        if not text or "\0" in text:
            source.fail("a source is a path")
        if made.add and addresses.is_address(text):
            parts += _fetched(work, stack, made, source, text, expand)
        elif made.add and origin is None:
            if made.checksum is not None:
                made.checksum.fail("`--checksum` is for sources that are addresses")
            archived, others = _archives(work, stack, made, text, excluded)
            parts += archived
            patterns += others
        else:
            if made.checksum is not None:
                made.checksum.fail("`--checksum` is for sources that are addresses")
            patterns.append(text)
    if patterns and origin is None:
        parts.append(_of_context(work, patterns, excluded, parents=made.parents))
    elif patterns and origin is not None:
        rules = [expand.of(piece) for piece in made.exclude]
        parts.append(_of_stage(work, origin, patterns, rules, parents=made.parents))
    return parts


def _of_context(
    work: Work, patterns: Sequence[str], excluded: Ignored | None, *, parents: bool
) -> Part:
    context = work.context()
    seen = context.fingerprint(patterns, excluded, parents=parents)

    def write(sink: int) -> None:
        context.write(patterns, excluded, sink, parents=parents, expected=seen)

    return Part(["context", seen], write)


def _of_stage(
    work: Work,
    origin: State,
    patterns: Sequence[str],
    rules: Sequence[str],
    *,
    parents: bool,
) -> Part:
    """Files of another stage or image, read in a container of it."""

    def write(sink: int) -> None:
        from sandbox_kernel.building import workshop

        order = {"patterns": list(patterns), "excluded": list(rules), "parents": parents}
        with workshop.bench(work, origin.layers, label="build source") as bench:
            bench.gather(order, sink)

    return Part(["stage", origin.chain, list(patterns)], write)


def _archives(
    work: Work, stack: ExitStack, made: Copy, text: str, excluded: Ignored | None
) -> tuple[list[Part], list[str]]:
    """Of a source of ADD those that are archives: what is in them, and patterns for the others."""
    if made.unpack is False:
        return [], [text]
    parts, others = [], []
    for path, file in work.context().open_files(text, excluded):
        with ExitStack() as own:
            own.callback(os.close, file)
            part = _unpacked(work, file, path, asked=made.unpack is True)
            if part is None:
                others.append(_SPECIAL.sub(r"\\\g<0>", path))
            else:
                parts.append(part)
                stack.push(own.pop_all())
    return parts, (others if parts else [text])


def _unpacked(work: Work, file: int, shown: str, *, asked: bool) -> Part | None:
    """What is in an archive; None when it is none, unless somebody `asked` to unpack it."""
    start = os.pread(file, addresses.BLOCK, 0)
    compression = addresses.compression_of(start)
    if compression == "none" and not asked and not addresses.begins_a_tar(start):
        return None
    from sandbox_kernel.building import archives

    if compression != "none" and not asked:
        start = archives.first_block(file, compression)
        if not addresses.begins_a_tar(start):
            return None
    digest = archives.digest(file)

    def write(sink: int) -> None:
        begin = {"kind": "source", "name": "", "folder": True, "into": ""}
        transfer.write_record(sink, begin)
        left_out = archives.write(file, compression, sink, shown, expected=digest)
        if left_out:
            work.note([f"ADD `{shown}`: {left_out} devices and fifos in it were left out"])

    return Part(["archive", digest], write)


def _fetched(
    work: Work, stack: ExitStack, made: Copy, source: Piece, address: str, expand: _Values
) -> list[Part]:
    """A source of ADD that is an address, fetched before anything else is done."""
    from sandbox_kernel.building import remote

    checksum = expand.of(made.checksum) if made.checksum else None
    try:
        fetched = remote.fetch(work, address, checksum)
    except InvalidOption as error:
        source.fail(str(error))
    stack.callback(os.close, fetched.file)
    if made.unpack and (part := _unpacked(work, fetched.file, address, asked=True)):
        return [part]
    size = os.fstat(fetched.file).st_size
    mode = stat.S_IRUSR | stat.S_IWUSR

    def write(sink: int) -> None:
        name = fetched.name
        transfer.write_record(sink, {"kind": "source", "name": name, "folder": False, "into": ""})
        record = {"kind": "file", "path": "", "mode": mode, "mtime": fetched.mtime}
        transfer.write_record(sink, record)
        at = 0
        while at < size:
            data = os.pread(fetched.file, transfer.PIECE, at)
            transfer.write_piece(sink, data)
            at += len(data)
        transfer.write_piece(sink, b"")

    return [Part(["fetched", fetched.name, fetched.digest], write)]

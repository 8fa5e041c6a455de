"""Readers of bytes that others wrote, each with what it is fed and how it may refuse.

`tests/unit/test_fuzz.py` feeds each a little, `make fuzz` as long as one wants.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import gzip
import hashlib
import io
import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import conda_channels
import dns.message
import msgspec
import numpy as np
import pyarrow
from hypothesis import strategies as st
from layer_archives import archive, member, symlink

from sandbox_kernel import audit, errors, learnt
from sandbox_kernel.container import events, values_in
from sandbox_kernel.containerfile import ignore
from sandbox_kernel.containerfile.parse import parse
from sandbox_kernel.image import documents, pins, reference
from sandbox_kernel.image.environments import elf, lock, script
from sandbox_kernel.image.environments.conda import archives, environment_file, linking
from sandbox_kernel.image.environments.conda import lock as conda_lock
from sandbox_kernel.image.layers import compression, tar
from sandbox_kernel.image.layers.limits import Limits
from sandbox_kernel.image.registry import authentication, credentials
from sandbox_kernel.image.registry.configuration import Configuration
from sandbox_kernel.image.registry.endpoints import Endpoint, Origin
from sandbox_kernel.image.store import names
from sandbox_kernel.kernel import wire, zmtp
from sandbox_kernel.linux import messages
from sandbox_kernel.network import answering, capture, name_servers, protocol
from sandbox_kernel.oci import document, state
from sandbox_kernel.runtime import accounts, ferry, templates, transfer

SMALL = Limits(plain=1 << 20, members=100, header=4096, records=32, holes=64, window=20)
NAME = "sha256:" + "0" * 64


@dataclasses.dataclass(frozen=True)
class Target:
    """`read` is given what `fed` makes; it returns, or raises one of `refuses`."""

    fed: st.SearchStrategy[Any]
    read: Callable[[Any], object]
    refuses: tuple[type[BaseException], ...] = ()
    known: tuple[Any, ...] = ()
    """What once was answered in another way; it is tried first, each time."""

    def try_one(self, given: Any) -> None:
        """Raises what the reader must not raise."""
        with suppress(*self.refuses):
            self.read(given)


# -- what is fed ----------------------------------------------------------------------------------

WORDS = st.sampled_from(["", "a", "/", "..", "-1", "root", "0" * 70, "\0", "\ud800", NAME, "é"])
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 1 << 70), st.floats(), WORDS, st.text(max_size=20)
)
ANY = st.recursive(
    PLAIN,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=8,
)
NESTED = b"[" * 2000
DEEP = st.sampled_from([b"[" * 2000, b'{"a":' * 2000, b"[" * 400 + b"]" * 400])


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each container in a document, with each key of it."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Any:
    """A document with some of its values replaced, left out or added."""
    made = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(made))
        if not places:
            return draw(ANY)
        holder, key = draw(st.sampled_from(places))
        if draw(st.booleans()):
            holder[key] = draw(ANY)
        elif isinstance(holder, dict):
            holder.pop(key)
            holder[draw(WORDS)] = draw(ANY)
        else:
            holder.append(draw(ANY))
    return made


def _written(value: Any) -> bytes:
    return json.dumps(value).encode()


@st.composite
def damaged(draw: st.DrawFn, *seeds: bytes) -> bytes:
    """Bytes of which some were changed, cut off, doubled or put in; or any bytes at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.one_of(st.binary(max_size=600), DEEP))
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        how = draw(st.integers(0, 4))
        if how == 0 and at < len(data):
            data[at] = draw(st.integers(0, 255))
        elif how == 1:
            del data[at:]
        elif how == 2:
            del data[at : at + draw(st.integers(1, 40))]
        elif how == 3:
            data[at:at] = data[at : at + draw(st.integers(1, 600))]
        else:
            data[at:at] = draw(st.binary(max_size=16))
    return bytes(data)


def json_of(value: Any) -> st.SearchStrategy[bytes]:
    """A document as text, changed as a document or as bytes."""
    return st.one_of(changed(value).map(_written), damaged(_written(value)))


def text_of(*seeds: str) -> st.SearchStrategy[str]:
    """A text, changed as bytes are."""
    whole = damaged(*(seed.encode() for seed in seeds))
    return whole.map(lambda data: data.decode("utf-8", "surrogateescape"))


@contextmanager
def in_a_file(data: bytes, name: str = "file") -> Iterator[str]:
    """The folder of a file that holds these bytes."""
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/{name}", "wb") as file:
            file.write(data)
        yield folder


# -- readers --------------------------------------------------------------------------------------

SIGNER = wire.Signer(b"key")
HEADER = {"msg_id": "m", "msg_type": "stream", "session": "s", "username": "u", "version": "5.3",
          "date": "2026-01-01T00:00:00Z"}  # fmt: skip


def _jupyter(frames: list[bytes]) -> None:
    """As they are, and with a right signature, behind which the strict part begins."""
    reader = wire.Reader(SIGNER, replays=True)
    with suppress(wire.BadMessage):
        reader.read(frames)
    signed = [wire.DELIMITER, SIGNER.sign(frames[:4]), *frames]
    message = reader.read(signed)
    assert message.header.msg_type is not None


def _zmtp(pieces: list[bytes]) -> None:
    ours, theirs = socket.socketpair()
    link = zmtp.Link(ours, "ROUTER", budget=1 << 16)
    with theirs:
        theirs.setblocking(False)
        try:
            for piece in pieces:
                with suppress(BlockingIOError):
                    theirs.send(piece)
                for received in link.read():
                    assert received.size <= 1 << 16 or received.cut
        finally:
            link.close()


ZMTP_READY = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
ZMTP_MESSAGES = (b"\x01\x00\x00\x03abc", b"\x02\x00\x00\x00\x00\x00\x00\x00\x05abcde")


def _frames_of_a_cell(pieces: list[bytes]) -> None:
    reader = events.FrameReader()
    reader.room = 4096
    for piece in pieces:
        for frame, body in reader.feed(piece):
            if isinstance(frame, events.BUNDLES) and body is not None:
                events.bundle(frame, body)


def _cell_frame(header: bytes, body: bytes = b"") -> bytes:
    return len(header).to_bytes(4, "little") + len(body).to_bytes(8, "little") + header + body


CELL_FRAMES = (
    _cell_frame(b'{"kind":"display","parts":[["a/plain",2,"text"],["a/json",2,"json"]]}', b"hi[]"),
    _cell_frame(b'{"kind":"done","status":"ok"}'),
    _cell_frame(b'{"kind":"error","name":"E","value":"v","traceback":"t"}'),
)  # fmt: skip


def _packet(data: bytes) -> None:
    ours, theirs = messages.pair()
    with ours, theirs:
        theirs.send(data[: messages.LONGEST_PACKET] or b" ")
        received = messages.receive(ours)
        assert received is not None and isinstance(received[0], dict) and not received[1]


def _child_of_a_template(data: bytes) -> None:
    ours, theirs = messages.pair()
    with ours, theirs:
        theirs.send(data[: 1 << 16] or b" ")
        assert templates.hear_child(ours) is not None


class Ended(Exception):
    """A ferry would have ended its process here, as its program did or as one that lies does."""


def _ferried(pieces: list[bytes]) -> None:
    """Bytes for an output, a memory file of a size that is sealed, and what it was not given."""
    stream, inside = os.pipe2(os.O_CLOEXEC)
    out = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
    scratch = os.memfd_create("scratch", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(scratch, 100)
    ended = mock.patch.object(os, "_exit", side_effect=Ended)
    spared = mock.patch.object(os, "kill"), mock.patch.object(ferry.signal, "signal")
    try:
        with ended, spared[0], spared[1]:
            one = ferry.Ferry({1: out, 3: scratch}, -1, stream, window=1 << 16)
            for piece in [ferry.START, *pieces]:
                os.write(inside, piece[: 1 << 15] or b"\0")
                one._hear()
                assert os.fstat(scratch).st_size == 100
    finally:
        for descriptor in (stream, inside, out, scratch):
            os.close(descriptor)


def _carried(kind: bytes, number: int, data: bytes) -> bytes:
    return ferry.HEADER.pack(kind, number, len(data)) + data


FERRIED = (
    _carried(b"D", 1, b"text"), _carried(b"W", 3, (90).to_bytes(8, "little") + b"x" * 20),
    _carried(b"A", 0, b"\1\0\0\0"), _carried(b"E", 0, b'{"status": 3}'),
    _carried(b"E", 0, b'{"signal": 9}'),
)  # fmt: skip


def _copied(data: bytes) -> None:
    """A stream of files in each of the three ways that it is read, none of which leads out."""

    def unpacking() -> transfer.Unpacking:
        os.lseek(source, 0, os.SEEK_SET)
        return transfer.Unpacking(source, most_bytes=4096, most_files=20)

    refused = (errors.StepFailed, errors.CopyRefused)
    with in_a_file(data, "stream") as folder, tempfile.TemporaryDirectory() as made:
        source = os.open(f"{folder}/stream", os.O_RDONLY)
        Path(made, "here").mkdir()
        here = os.open(f"{made}/here", os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(*refused):
                unpacking().into(here, "")
            assert os.listdir(made) == ["here"]
            with suppress(*refused):
                unpacking().into_memory()
            for _, content in unpacking().passing():
                for _ in content:
                    pass
        finally:
            os.close(here)
            os.close(source)


def _of_a_stream(*records: dict[str, Any] | bytes) -> bytes:
    pieces = [each if isinstance(each, bytes) else _written(each) for each in records]
    return b"".join(len(piece).to_bytes(4, "big") + piece for piece in pieces)


FOLDER = {"kind": "folder", "path": "a", "mode": 0o755}
COPIED_FILE = {"kind": "file", "path": "a/b", "mode": 0o644}
COPIED_LINK = {"kind": "link", "path": "a/c", "mode": 0o777, "target": "b"}
SKIPPED = {"kind": "skipped", "path": "a/d", "why": "it is a socket"}
END = {"kind": "end"}


@st.composite
def copied(draw: st.DrawFn) -> bytes:
    """A stream whose records were changed as documents, or which was changed as bytes."""
    said = FOLDER, COPIED_FILE, b"text", b"", COPIED_LINK, SKIPPED, END
    if draw(st.booleans()):
        return draw(damaged(_of_a_stream(*said)))
    return _of_a_stream(
        *(draw(changed(each)) if isinstance(each, dict) and draw(st.booleans()) else each
          for each in said)
    )  # fmt: skip


def _value(given: tuple[str, bytes, dict[str, Any]]) -> None:
    form, data, details = given
    values_in.parse("x", form, memoryview(data), details)


def _values() -> st.SearchStrategy[tuple[str, bytes, dict[str, Any]]]:
    """What a cell gives out as a value: its form, its bytes, and what it says of them."""
    table = pyarrow.table({"a": [1, 2, 3], "b": ["x", None, "z"], "c": [[1], [], None]})
    table = table.append_column("d", pyarrow.array(["x", "y", "x"]).dictionary_encode())
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    arrays = []
    for array in (np.arange(6).reshape(2, 3), np.zeros(2, [("a", "i4"), ("b", "S3")])):
        file = io.BytesIO()
        np.lib.format.write_array(file, array, allow_pickle=False)
        arrays.append(file.getvalue())
    said = {"library": st.sampled_from(["pandas", "polars", "pyarrow", 1]), "named": PLAIN}
    said |= {"series": st.booleans(), "scalar": st.booleans()}
    details = st.fixed_dictionaries({}, optional=said)
    return st.one_of(
        st.tuples(st.just("npy"), damaged(*arrays), details),
        st.tuples(st.just("arrow"), damaged(sink.getvalue().to_pybytes()), details),
        st.tuples(st.sampled_from(["json", "bytes", ""]), json_of({"a": [1.5]}), details),
    )


def _captured(data: bytes) -> None:
    """As one frame, and as a file of them."""
    packets = [capture.dissect(capture.Frame(0, data))]
    with suppress(ValueError):
        packets += [capture.dissect(frame) for frame in capture.read_file(data)]
    capture.talks(packets)


def _ethernet(kind: int, body: bytes) -> bytes:
    return b"\2" * 6 + b"\4" * 6 + kind.to_bytes(2, "big") + body


def _ip(protocol: int, body: bytes) -> bytes:
    head = b"\x45\0" + (20 + len(body)).to_bytes(2, "big") + b"\0" * 5 + bytes([protocol])
    return _ethernet(capture.ETH_P_IP, head + b"\0\0" + bytes([10, 0, 0, 1, 10, 0, 0, 2]) + body)


def _captures() -> tuple[bytes, ...]:
    ports = b"\x9c\x40\0\x35"
    seen = (
        _ip(6, ports + b"\0" * 8 + b"\x50\x12" + b"\0" * 6), _ip(17, ports + b"\0" * 4 + QUERY),
        _ip(1, b"\3\x0a" + b"\0" * 6), _ethernet(capture.ETH_P_IPV6, bytes(60)),
        _ethernet(capture.ETH_P_ARP, b"\0\1\x08\0\6\4\0\1" + bytes(20)),
    )  # fmt: skip
    file = io.BytesIO()
    writer = capture.Writer(file)
    for each in seen:
        writer.write(capture.Frame(1, each))
    return (*seen, file.getvalue())


def _unpacked(data: bytes) -> None:
    """As the kind that its first bytes say, in pieces of some bytes."""
    size = 1 + len(data) % 700
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    said = compression.kind(data[:4])

    def read() -> bytes:
        return pieces.pop(0) if pieces else b""

    assert sum(map(len, compression.plain(read, said, SMALL))) <= SMALL.plain


ZSTD = compression.zstd.compress(b"zstd" * 300)
GZIP = gzip.compress(b"gzip" * 300, mtime=0)
GZIP_NAMED = (
    b"\x1f\x8b\x08\x1e\0\0\0\0\0\xff\x02\0ab" + b"name\0" + b"comment\0" + b"\0\0" + GZIP[10:]
)


def _members(data: bytes) -> None:
    pieces = [data[at : at + 512] for at in range(0, len(data), 512)]
    reader = tar.Reader(lambda: pieces.pop(0) if pieces else b"", SMALL)
    while reader.member() is not None:
        for _ in reader.data():
            pass


ARCHIVE = archive(
    member(b"pax", b"20 path=d/some-name\n27 SCHILY.xattr.user.x=val\n", kind=b"x"),
    member(b"x", b"data" * 50),
    member(b"././@LongLink", b"n" * 150 + b"\0", kind=b"L", magic=b"ustar  \0"),
    member(b"n", b"x"),
    symlink(b"l", b"d"),
)


def _ignored(text: str) -> None:
    rules = ignore.read(text, ".dockerignore")
    for path in ("a", "a/b/c.txt", "*", "a\nb"):
        rules.is_left_out(path)


def _configuration(data: bytes) -> None:
    with in_a_file(data, "config.json") as folder:
        document.load(folder)


CONFIGURATION = {
    "ociVersion": "1.2.0",
    "root": {"path": "rootfs"},
    "process": {
        "args": ["true"],
        "cwd": "/",
        "capabilities": {"bounding": ["CAP_KILL"]},
        "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
    },
    "mounts": [{"destination": "/proc", "type": "proc"}],
    "hooks": {"poststop": [{"path": "/bin/true"}]},
    "hostname": "h",
    "linux": {
        "namespaces": [{"type": "uts"}, {"type": "ipc", "path": "/proc/self/ns/ipc"}],
        "sysctl": {"kernel.shmmax": "1"},
    },
}


def _state(data: bytes) -> None:
    with in_a_file(data, "state.json") as folder:
        place = state.Folder(os.path.dirname(folder), os.path.basename(folder))
        assert isinstance(place.read(), dict)


def _record(data: bytes) -> None:
    with in_a_file(data, audit.NAME) as folder:
        for line in audit.lines(f"{folder}/{audit.NAME}"):
            assert isinstance(line, dict)


def _listed(data: bytes) -> None:
    class Places:
        index = ""

    with in_a_file(data, "index.json") as folder:
        Places.index = f"{folder}/index.json"
        names.listed(Places)  # type: ignore[arg-type]


def _login(data: bytes) -> None:
    with in_a_file(data) as folder:
        content = credentials._read(f"{folder}/file")
        if content is not None:
            credentials._from_auths(content, "ghcr.io", "file")


def _account(data: bytes) -> None:
    with in_a_file(data, "passwd") as folder:
        found = accounts.find(f"{folder}/passwd", lambda fields: fields[0] == "user")
        if found is not None:
            accounts._number(found[2])


def _program(data: bytes) -> None:
    with in_a_file(data) as folder:
        file = os.open(f"{folder}/file", os.O_RDONLY)
        try:
            elf.read(file)
        finally:
            os.close(file)


with open(os.path.realpath("/proc/self/exe"), "rb") as _own:
    ELF = _own.read(2048)


def _challenge(header: str) -> None:
    for challenge in authentication.challenges([header]):
        assert challenge.scheme == challenge.scheme.lower()


GHCR = Endpoint(Origin("https", "ghcr.io", 443), "o/n", "ghcr.io")


def _realm(text: str) -> None:
    """A password goes to the registry itself, whatever it says."""
    challenge = authentication.Challenge("bearer", {"realm": text, "service": text})
    url = authentication.realm(GHCR, challenge, Configuration(), secret=True)
    assert authentication.origin_of(url) == GHCR.origin
    authentication.token_request(url, challenge, ["s"], None)


def _answered(data: bytes) -> None:
    asked = dns.message.make_query("a.example", "A")
    answering.understood(data, asked)
    answering.read(data)


QUERY = dns.message.make_query("a.example", "A", use_edns=0).to_wire()
LAYER = {"mediaType": documents.OCI_LAYER_GZIP, "digest": NAME, "size": 3}
MANIFEST = {
    "schemaVersion": 2,
    "mediaType": documents.OCI_MANIFEST,
    "config": {"mediaType": documents.OCI_CONFIG, "digest": NAME, "size": 2},
    "layers": [LAYER],
}
INDEX = {
    "schemaVersion": 2,
    "manifests": [
        {"mediaType": documents.OCI_MANIFEST, "digest": NAME, "size": 3,
         "platform": {"os": "linux", "architecture": "amd64"}, "annotations": {"a": "b"}}
    ],
}  # fmt: skip
IMAGE = {
    "os": "linux",
    "architecture": "amd64",
    "config": {"Env": ["A=b"], "Cmd": ["sh"], "User": "0", "Labels": {"a": "b"}},
    "rootfs": {"type": "layers", "diff_ids": [NAME]},
    "history": [{"created_by": "x"}],
}
WHEEL = {"name": "a", "version": "1", "file": "a-1-py3-none-any.whl", "sha256": "0" * 64,
         "size": 1, "url": "https://a/b"}  # fmt: skip
LOCK = {"python": "3.12", "requirements": ["a"], "wheels": [WHEEL]}
PLUG = {"do": "plug", "container": "a" * 12, "network": "bridge", "shape": {"bandwidth": 1}}

OURS = (errors.ImageError,)
PIECES = st.lists(damaged(*CELL_FRAMES), max_size=4)
CONDA_LOCK = {
    "machine": "x86_64", "glibc": "2.17", "site_packages": "lib/python3.12/site-packages",
    "packages": [{"name": "a", "version": "1", "build": "0", "channel": "c", "subdir": "noarch",
                  "file": "a-1-0.conda", "sha256": "0" * 64, "size": 1}],
    "requirements": ["a"], "channels": ["c"],
}  # fmt: skip
CONDA_INDEX = {"name": "a", "version": "1", "build": "0", "noarch": "python"}
CONDA_PATHS = {
    "paths": [
        {"_path": "site-packages/a.py", "path_type": "hardlink", "file_mode": "text",
         "prefix_placeholder": conda_channels.PLACEHOLDER},
        {"_path": "lib/b", "path_type": "softlink"},
        {"_path": "lib/c", "path_type": "directory"},
    ],
    "paths_version": 1,
}  # fmt: skip
CONDA_LINK = {"noarch": {"type": "python", "entry_points": ["a = a:main"]}}


@functools.cache
def _archives_of_conda() -> tuple[bytes, bytes]:
    """The same package as a `.conda` and as a `.tar.bz2`."""
    with tempfile.TemporaryDirectory() as folder:
        channel = conda_channels.Channel(Path(folder, "channel"))
        given: dict[str, Any] = {"files": {"lib/a": "x"}, "links": {"lib/b": "a"}}
        one, two = (channel.add("a", kind=kind, **given) for kind in (".conda", ".tar.bz2"))
        return one.read_bytes(), two.read_bytes()


def _known_of_conda() -> Iterator[bytes]:
    """Its parts lie before its begin; the name before a part is said to be UTF-8, and is not."""
    for each in _archives_of_conda():
        yield each[:-4] + b"\x01" + each[-3:]
    zipped = bytearray(_archives_of_conda()[0])
    name = zipped.index(b"pkg-a")
    zipped[name - 30 + 6 : name - 30 + 8] = (0x800).to_bytes(2, "little")  # APPNOTE.TXT, 4.3.7
    zipped[name] = 0xB5
    yield bytes(zipped)


def _archive_of_conda(data: bytes) -> None:
    ending = ".tar.bz2" if data[:2] == b"BZ" else ".conda"
    digits = hashlib.sha256(data).hexdigest()
    package = conda_lock.Package("a", "1", "0", "c", "noarch", f"a-1-0{ending}", digits, len(data))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "archive").write_bytes(data)
        Path(folder, "stage").mkdir()
        archives.unpack(f"{folder}/archive", package, f"{folder}/stage")


def _package_of_conda(documents: list[bytes]) -> None:
    """What it says of itself, over files that are as they must be."""
    package = conda_lock.Package("a", "1", "0", "c", "noarch", "a-1-0.conda", "0" * 64, 1)
    information = dict(zip((archives.INDEX, archives.PATHS, archives.LINK), documents, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "1")
        source.write_text(conda_channels.PLACEHOLDER)
        members = {
            "site-packages/a.py": archives.Member(str(source), "", False, 0),
            "lib/b": archives.Member("", "a", False, 0),
        }
        content = archives.Content(information, members)
        linking.link(content, package, "lib/python3.12/site-packages", f"{folder}/tree")


def _environment_of_conda(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "environment.yml")
        path.write_text(text, "utf-8", "surrogateescape")
        environment_file.read("conda:environment.yml", str(path))


TARGETS: dict[str, Target] = {
    "jupyter-frames": Target(
        st.tuples(json_of(HEADER), json_of(HEADER), json_of({"a": {}}), json_of({"text": ""}),
                  st.binary(max_size=8)).map(list),
        _jupyter, (wire.BadMessage,)),
    "zmtp": Target(
        st.lists(damaged(*ZMTP_MESSAGES, ZMTP_READY), max_size=5).map(
            lambda pieces: [zmtp.GREETING, ZMTP_READY, *pieces]),
        _zmtp, (wire.BadMessage,)),
    "zmtp-greeting": Target(
        st.lists(damaged(zmtp.GREETING), max_size=2), _zmtp, (wire.BadMessage,)),
    "cell-frames": Target(PIECES, _frames_of_a_cell, (events.BrokenChannel,),
                          ([_cell_frame(b'{"kind":"\x80"}')],)),
    "packets": Target(json_of({"op": "create", "id": "x"}), _packet, (ValueError,), (NESTED,)),
    "template-child": Target(
        json_of({"here": "x"}), _child_of_a_template, (ValueError,), (NESTED,)),
    "references": Target(
        text_of("ghcr.io/o/n:tag@" + NAME, "build:./x#File", "packages: a==1 on python:3"),
        reference.parse, OURS),
    "manifests": Target(json_of(MANIFEST), documents.decode, OURS),
    "indexes": Target(json_of(INDEX), documents.decode, OURS,
                      (b'{"schemaVersion":2,"manifests":[{"mediaType":"\\ud800"}]}',)),
    "image-configurations": Target(json_of(IMAGE), documents.decode_config, OURS),
    "compression": Target(
        st.one_of(damaged(GZIP, ZSTD, GZIP_NAMED, GZIP + GZIP),
                  damaged(b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + ZSTD)),
        _unpacked, OURS),
    "tar": Target(damaged(ARCHIVE), _members, OURS),
    "containerfiles": Target(
        text_of("# syntax=x\nARG A=b\nFROM a AS b\nRUN --mount=type=cache,target=/x <<E\nhi\nE\n",
                'FROM a\nCOPY --from=b --chmod=0755 ["a", "b"]\nENV A="$A${B:-c}"\nUSER a:b\n'),
        parse, (errors.ContainerfileError,)),
    "ignore-patterns": Target(
        text_of("# c\n*.o\n!a/**/b\n[a-z]?\\x\n", "**/a\n!../x\n[^]a]\n"),
        _ignored, (errors.ContainerfileError,)),
    "challenges": Target(
        text_of('Bearer realm="https://a/t",service="b",scope="c:d:e", Basic realm=x'), _challenge),
    "realms": Target(
        text_of("https://ghcr.io/token?a=b", "https://ghcr.io@h/", "http://[::1]:80/x#f"),
        _realm, (errors.RegistryError,)),
    "tokens": Target(
        json_of({"token": "abc", "access_token": "d", "expires_in": 60}),
        lambda body: authentication.read_token(body, GHCR, 100), (errors.RegistryError,)),
    "logins": Target(
        json_of({"auths": {"ghcr.io": {"auth": "YTpi", "identitytoken": ""}}}),
        _login, (errors.RegistryError,), (_written({"auths": {"ghcr.io": {"auth": "\x80"}}}),)),
    "dns": Target(damaged(QUERY), _answered),
    "name-servers": Target(text_of("nameserver 1.1.1.1\nsearch x\n"), name_servers.read),
    "network-requests": Target(
        changed(PLUG), protocol.read, (msgspec.ValidationError,), ({"\ud800": 1},)),
    "script-headers": Target(
        text_of('# /// script\n# requires-python = ">=3.9"\n# dependencies = ["a==1"]\n# ///\n',
                "# /// script\n# [tool.uv]\n# exclude-newer = 2024-01-01\n# ///\n"),
        lambda code: script.reference(code, "host"), OURS),
    "conda-archives": Target(
        damaged(*_archives_of_conda()), _archive_of_conda, OURS, tuple(_known_of_conda())),
    "conda-packages": Target(
        st.tuples(json_of(CONDA_INDEX), json_of(CONDA_PATHS), json_of(CONDA_LINK)).map(list),
        _package_of_conda, OURS,
        ([_written(CONDA_INDEX), _written(CONDA_PATHS).replace(b"site-p", b"\\ud800"),
          _written(CONDA_LINK)],
         [_written(CONDA_INDEX), _written(CONDA_PATHS).replace(b"/opt", b"\\ud800"),
          _written(CONDA_LINK)])),
    "conda-locks": Target(json_of(CONDA_LOCK), lambda data: conda_lock.decode(data, "x"), OURS),
    "conda-environments": Target(
        text_of("name: a\nchannels: [conda-forge]\ndependencies:\n- a =1\n- conda-forge::b 1 0\n",
                "dependencies: &x\n  - ! a\n  - pip: [*x]\n  - {<<: *x}\n"),
        _environment_of_conda, OURS),
    "locks": Target(json_of(LOCK), lambda data: lock.decode(data, "x"), OURS),
    "pins": Target(
        changed({"images": {"a": {"digest": NAME}}}), lambda table: pins.decode(table, "x"), OURS,
        ({"\ud800": None},)),
    "learnt-filters": Target(
        json_of({"calls": ["read"], "learnt_from": ["x"]}),
        lambda data: learnt.decode(data, "x"), (errors.StepFailed,), (NESTED,)),
    "oci-configuration": Target(
        json_of(CONFIGURATION), _configuration, (errors.StepFailed, errors.InvalidOption),
        (NESTED, *(_written({**CONFIGURATION, name: value}) for name, value in (
            ("linux", {"sysctl": [1]}), ("linux", {"namespaces": [{"type": "ipc", "path": 1}]}),
            ("process", {"args": ["a"], "cwd": "/", "rlimits": [{"type": []}]}),
            ("process", {"args": ["a"], "cwd": "/", "capabilities": {"bounding": 1}}),
            ("process", {"args": ["a"], "cwd": "/", "capabilities": {"bounding": [{}]}}))))),
    "oci-state": Target(
        json_of({"id": "a", "pid": 1}), _state, (errors.StepFailed,), (NESTED, b"[]")),
    "audit-lines": Target(
        damaged(b'{"kind": "start", "run": "a"}\n{"kind": "end", "run": "a"}\n'), _record, (),
        (NESTED,)),
    "image-names": Target(json_of(INDEX), _listed, OURS,
                          (NESTED, _written(INDEX).replace(b"mediaT", b"\x80"))),
    "accounts": Target(
        damaged(b"root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:\n"),
        _account, (errors.StepFailed,)),
    "programs": Target(damaged(ELF), _program, (ValueError,)),
    "ferried-frames": Target(
        st.lists(damaged(*FERRIED), max_size=4), _ferried, (Ended,),
        ([_carried(b"E", 0, b'{"status": Infinity}')],)),
    "copied-streams": Target(
        copied(), _copied, (errors.StepFailed, errors.CopyRefused),
        tuple(_of_a_stream(each, END) for each in (
            NESTED, {"path": "a"}, COPIED_FILE, {**FOLDER, "path": ""},
            {**FOLDER, "mode": "x"}, {**FOLDER, "mode": None},
            {**FOLDER, "path": "\ud800"}, {**COPIED_LINK, "path": "a", "target": "\ud800"}))),
    "values": Target(_values(), _value, (errors.ValueNotTransferable,)),
    "captured-frames": Target(
        damaged(*_captures()), _captured, (), (_ethernet(capture.ETH_P_IP, bytes(15)),)),
}  # fmt: skip

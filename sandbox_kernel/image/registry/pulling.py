"""Pulling: from a name to an image in the store, its layers unpacked while they come.

For each layer there are two threads: one reads the bytes off the network, writes them to the store
(which hashes them) and into a pipe; the other waits for the confined process that unpacks what
comes out of that pipe (and hashes the plain bytes). So nothing is read again to be hashed or
unpacked, and what is in memory is a few pieces for each layer, however large it is.

What one layer needs of the store is held in the store's order of locks: its blob, then its tree.
A tree is only published after both digests were right. What was fetched of a blob stays when the
pull ends early, and the next one goes on behind it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_kernel.errors import ImageError, Killed, RegistryError, SandboxError, shown
from sandbox_kernel.image import digest as digests
from sandbox_kernel.image import documents
from sandbox_kernel.image.digest import Digest
from sandbox_kernel.image.reference import Registry
from sandbox_kernel.image.registry import blobs, manifests
from sandbox_kernel.image.registry.client import Client
from sandbox_kernel.image.registry.configuration import Configuration, Wanted, load
from sandbox_kernel.image.registry.connections import Cancellation, Cancelled
from sandbox_kernel.image.registry.endpoints import endpoints
from sandbox_kernel.image.registry.progress import Listener, Teller
from sandbox_kernel.image.registry.threads import in_turn
from sandbox_kernel.image.store import BlobWriter, Store, Stored

if TYPE_CHECKING:
    from sandbox_kernel.image.layers.compression import Compression

PIECE = 1 << 20
PIPE = 1 << 20
"""Bytes that may wait between reading and unpacking: fcntl(2), F_SETPIPE_SZ."""
READ_ON = 64 << 20
"""How much more is read of a layer that can't be unpacked, to see whether its digest is wrong."""
_F_SETPIPE_SZ = 1031


OnStop = Callable[[Callable[[], None]], Callable[[], None]]


def pull(
    store: Store,
    reference: Registry,
    *,
    platform: Wanted | None = None,
    progress: Listener | None = None,
    configuration: Configuration | None = None,
    on_stop: OnStop | None = None,
) -> Stored:
    """Fetches an image, unless it is there, and lets its name mean it.

    Mirrors are asked first. `on_stop` is given what ends the pull from another thread, and returns
    what takes that back. Raises RegistryError and ImageError, which say which layer and why;
    NotAllowed and InvalidOption for settings; Killed when it was ended.
    """
    from sandbox_kernel.image import unpacked

    settings = configuration if configuration is not None else load()
    problems: list[SandboxError] = []
    for endpoint in endpoints(reference, settings):
        cancellation = Cancellation()
        take_back = on_stop(cancellation.cancel) if on_stop else None
        try:
            with Client(endpoint, settings, cancellation) as client, store.adding():
                found = manifests.find(client, reference, platform or settings.wanted)
                pulling = _Pull(store, client, found, Teller(progress))
                pulling.run()
                name = None if reference.digest else f"{reference.name}:{reference.tag}"
                stored = store.tag(name, found.descriptor, source=str(reference), index=found.index)
                unpacked.unpack(store, stored, depending=pulling.depending, progress=progress)
                return stored
        except Cancelled:
            raise Killed(f"pull `{reference}`: it was stopped") from None
        except RegistryError as error:
            problems.append(error)
        finally:
            if take_back is not None:
                take_back()
    raise problems[-1] if len(problems) == 1 else _all_failed(reference, problems)


class _NeedsLower(Exception):
    """A layer whose tree depends on those below it, which are not there yet."""


@dataclass(frozen=True)
class _Layer:
    """One layer to get."""

    digest: Digest
    size: int
    diff_id: Digest
    chain: Digest
    compression: Compression


class _Pull:
    """The layers of one image, several at once; the first failure ends all."""

    def __init__(
        self, store: Store, client: Client, found: manifests.Found, teller: Teller
    ) -> None:
        self.store = store
        self.client = client
        self.found = found
        self.tell = teller.tell
        self.cancellation = client.cancellation
        self.depending: set[Digest] = set()
        """Diff ids of layers that are unpacked when all are there, over those below them."""

    def run(self) -> None:
        """Ends when all is in the store, or with what went wrong first."""
        layers = self._layers()
        for layer in layers:
            self.tell(layer.digest, "waiting", 0, layer.size)
        in_turn(
            self._get,
            layers,
            threads=self.client.configuration.parallel,
            cancellation=self.cancellation,
        )
        for raw in (self.found.raw_config, self.found.raw_manifest):
            keep(self.store, raw)

    def _layers(self) -> list[_Layer]:
        """Each once, largest first: what takes longest must not begin last."""
        limits = self.client.limits
        found: dict[Digest, _Layer] = {}
        diff_ids = self.found.config.rootfs.diff_ids
        pairs = zip(self.found.manifest.layers, diff_ids, strict=True)
        for number, (descriptor, diff_id) in enumerate(pairs, 1):
            digest, size, kind = descriptor.digest, descriptor.size, descriptor.media_type
            if kind not in documents.COMPRESSION:
                raise RegistryError(
                    "fetch layer", digest, f"its type `{shown(kind)}` is none of a tar, gzip or "
                    "zstd", "have it built or pushed anew",
                )  # fmt: skip
            if size > limits.layer:
                why = f"it has {size} bytes, more than {limits.layer}"
                raise RegistryError("fetch layer", digest, why, "take a smaller one")
            chain, compression = digests.chain(diff_ids[:number]), documents.COMPRESSION[kind]
            found.setdefault(digest, _Layer(digest, size, diff_id, chain, compression))
        return sorted(found.values(), key=lambda layer: -layer.size)

    # -- one layer -------------------------------------------------------------------------------

    def _get(self, layer: _Layer) -> None:
        try:
            self.cancellation.check()
            with self.store.writer(layer.digest, layer.size) as writer:
                if self.store.layer(layer.diff_id) or self.store.layer(layer.chain):
                    moved = self._fetch_only(layer, writer)
                else:
                    moved = not writer.present
                    self._add(layer, writer)
                    if not writer.present:  # another pull made the tree while we waited
                        moved = self._fetch_only(layer, writer)
        except BaseException:
            self.tell(layer.digest, "failed", 0, layer.size)
            raise
        self.tell(layer.digest, "done" if moved else "there", layer.size, layer.size)

    def _add(self, layer: _Layer, writer: BlobWriter) -> None:
        try:
            self.store.add_layer(
                layer.diff_id, lambda directory: self._make(layer, writer, directory)
            )
        except _NeedsLower:
            self.depending.add(layer.diff_id)

    def _fetch_only(self, layer: _Layer, writer: BlobWriter) -> bool:
        """The blob alone, of a layer that is unpacked; whether there was something to fetch."""
        if writer.present:
            return False
        for chunk in self.downloaded(layer, writer.offset):
            writer.write(chunk)
            self.tell(layer.digest, "downloading", writer.offset, layer.size)
        self.commit(layer, writer)
        return True

    def _make(self, layer: _Layer, writer: BlobWriter, directory: str) -> str | None:
        """Fills the tree of a layer. A wrong transfer is told before what it broke."""
        from sandbox_kernel.image import layers

        reader, into = os.pipe2(os.O_CLOEXEC)
        _widen(into)
        feed = _Feed(self, layer, writer, into)
        feed.start()
        problem: BaseException | None = None
        facts: layers.LayerFacts | None = None
        try:
            facts = layers.apply(
                reader,
                layer.compression,
                directory,
                diff_id=layer.diff_id,
                parents=None,  # the tree is shared by its diff id, whatever lies below it
                alone=True,  # and where that can't be, that is told at once
            )
            feed.to_the_end = bool(facts.depends)
        except BaseException as error:
            problem = error
        finally:
            os.close(reader)  # who still writes learns that nobody reads
            feed.join()
        if feed.problem is not None:
            raise feed.problem
        if problem is not None:
            raise problem
        if facts is None or facts.depends:
            raise _NeedsLower
        return facts.notice()

    def commit(self, layer: _Layer, writer: BlobWriter) -> None:
        try:
            writer.commit()
        except ImageError as error:
            raise _failed(layer, str(error)) from None

    def downloaded(self, layer: _Layer, start: int) -> Generator[bytes]:
        return blobs.chunks(self.client, layer.digest, layer.size, start)


class _Feed(threading.Thread):
    """Brings a layer's bytes to the store and into the pipe; `problem` is what went wrong."""

    def __init__(self, pulling: _Pull, layer: _Layer, writer: BlobWriter, into: int) -> None:
        super().__init__(name=f"feed {layer.digest[:19]}", daemon=True)
        self.problem: BaseException | None = None
        self.to_the_end = False
        """Whether all is wanted, although nobody reads the pipe any more."""
        self._pull = pulling
        self._layer = layer
        self._writer = writer
        self._into = into
        self._is_open = True

    def run(self) -> None:
        """Until all came, or nobody wants more."""
        try:
            if self._writer.present:
                self._from_store()
            else:
                self._from_registry()
        except BaseException as error:  # `_make` raises it in its own thread
            self.problem = error
        finally:
            os.close(self._into)

    def _from_store(self) -> None:
        layer = self._layer
        with open(self._pull.store.open_blob(layer.digest), "rb", buffering=0) as blob:
            self._pour(blob.fileno(), layer.size)

    def _from_registry(self) -> None:
        layer, writer, tell = self._layer, self._writer, self._pull.tell
        if writer.offset:
            partial = self._pull.store.partial(layer.digest)
            if partial is None:
                raise _failed(layer, "what was fetched of it before is gone")
            with open(partial.path, "rb", buffering=0) as before:
                self._pour(before.fileno(), writer.offset)
        tell(layer.digest, "downloading", writer.offset, layer.size)
        with closing(self._pull.downloaded(layer, writer.offset)) as pieces:
            for piece in pieces:
                writer.write(piece)
                tell(layer.digest, "downloading", writer.offset, layer.size)
                if self._give(piece) or self.to_the_end:
                    continue
                if layer.size - writer.offset > READ_ON:
                    return
        self._pull.commit(layer, writer)
        tell(layer.digest, "unpacking", layer.size, layer.size)

    def _pour(self, source: int, size: int) -> None:
        """`size` bytes of a file into the pipe, which the kernel moves without us."""
        left = size
        while left and self._is_open:
            self._pull.cancellation.check()
            try:
                moved = os.splice(source, self._into, min(left, PIECE))
            except BrokenPipeError:
                self._is_open = False
                return
            if moved == 0:
                raise _failed(self._layer, f"{left} of its {size} bytes are gone from the store")
            left -= moved

    def _give(self, piece: bytes) -> bool:
        """Into the pipe; False once nobody reads it."""
        rest = memoryview(piece)
        while rest and self._is_open:
            try:
                rest = rest[os.write(self._into, rest) :]
            except BrokenPipeError:
                self._is_open = False
        return self._is_open


def keep(store: Store, raw: bytes) -> None:
    """Puts a document into the store, whatever an earlier try left of it."""
    with store.writer(digests.of(raw), len(raw)) as writer:
        if not writer.present:
            writer.restart()
            writer.write(raw)
            writer.commit()


def _widen(pipe: int) -> None:
    import fcntl

    try:
        fcntl.fcntl(pipe, _F_SETPIPE_SZ, PIPE)
    except PermissionError:  # above what this user may have for all his pipes: pipe(7)
        return


def _failed(layer: _Layer, why: str, remedy: str = "try again") -> RegistryError:
    return RegistryError("fetch layer", layer.digest, why, remedy)


def _all_failed(reference: Registry, problems: list[SandboxError]) -> RegistryError:
    told = "; ".join(str(problem) for problem in problems)
    return RegistryError("pull", reference, f"no mirror and not the registry gave it: {told}")

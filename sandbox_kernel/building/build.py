"""A build from its request to an image in the store: stages in parallel, then the documents."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Mapping
from queue import SimpleQueue
from typing import TYPE_CHECKING

import msgspec

from sandbox_kernel.building import layers, stages
from sandbox_kernel.building.evaluate import Stage
from sandbox_kernel.building.events import Listener, Pulling
from sandbox_kernel.building.request import BuildRequest, file_of
from sandbox_kernel.building.stages import Needed, Order
from sandbox_kernel.building.state import DEFAULT_PATH, State, of_stored
from sandbox_kernel.building.work import Work
from sandbox_kernel.containerfile import lines, parse
from sandbox_kernel.containerfile.parse import Containerfile
from sandbox_kernel.containerfile.source import Piece
from sandbox_kernel.errors import BuildFailed, ImageError, InvalidOption, Killed, SandboxError
from sandbox_kernel.image import bases, documents, reference
from sandbox_kernel.image.documents import Execution, ImageConfig, Manifest, RootFS
from sandbox_kernel.image.resolve import stored as stored_image
from sandbox_kernel.image.store import Store, Stored
from sandbox_kernel.workers import Outcome, Workers, wait

if TYPE_CHECKING:
    from concurrent.futures import Future

    from sandbox_kernel.image.registry.progress import Progress

MOST_WORKERS = 8


def build(store: Store, request: BuildRequest, listener: Listener | None = None) -> Stored:
    """Build an image and keep it under `request.name`, or without one.

    Raises ContainerfileError, BuildFailed, ImageError, InvalidOption, NotAllowed and what making
    containers raises. What was finished until then is in the cache.
    """
    if request.name is not None:
        store.full_name(request.name)  # before any work is done for it
    path, text = _read(request)
    file = parse.parse(text, path or "Containerfile")
    order = stages.order(file, request)
    work = Work(store, request, path, file.directives.escape, listener)
    try:
        with store.adding():
            state = _Stages(work, file, order).build()
            return _write(store, request, state)
    finally:
        work.close()


def _read(request: BuildRequest) -> tuple[str | None, str]:
    """The Containerfile's path, if it has one, and its text."""
    if request.text is not None:
        return None, request.text
    path = file_of(request.context, request.file)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            data = file.read(lines.MOST_BYTES + 1)
    except OSError as error:
        raise InvalidOption("--file", path, f"a Containerfile: {error.strerror}") from None
    return path, data.decode("utf-8", "surrogateescape")


class _Stages:
    """All stages that are needed, each built when those are that it needs."""

    def __init__(self, work: Work, file: Containerfile, order: Order) -> None:
        self._work = work
        self._file = file
        self._order = order
        self._by_name = {s.begin.name: s.index for s in file.stages if s.begin.name}
        self._futures: dict[int, Future[State]] = {}
        self._images: dict[str, State] = {}
        self._lock = threading.Lock()

    def build(self) -> State:
        """The state of the last one. Raises the first thing that went wrong."""
        needed = self._order.needed
        if len(needed) == 1:
            return self._stage(needed[0])
        from concurrent.futures import Future

        count = self._work.request.workers or min(MOST_WORKERS, (os.cpu_count() or 1) + 1)
        told: SimpleQueue[Outcome[None]] = SimpleQueue()
        for one in needed:
            self._futures[one.stage.index] = Future()
        threads = Workers(count, "build")
        try:
            for one in needed:  # each after those it needs, so nobody waits for one not begun
                threads.do(functools.partial(self._fulfil, one), told)
            for _ in needed:
                wait(told).get()
        except BaseException:
            self._work.stop()
            raise
        finally:
            threads.close()
        return self._futures[needed[-1].stage.index].result()

    def _fulfil(self, needed: Needed) -> None:
        """One stage, for those that wait for it; only other threads of ours do."""
        future = self._futures[needed.stage.index]
        try:
            future.set_result(self._stage(needed))
        except BaseException as error:
            future.set_exception(error)
            raise

    def _stage(self, needed: Needed) -> State:
        for index in needed.needs:
            self._futures[index].result()
        stage = needed.stage
        if isinstance(needed.base, int):
            state = self._futures[needed.base].result().copy()
        else:
            state = self._image(needed.base, stage.begin.image)
        built = Stage(
            self._work,
            stage.name,
            state,
            arguments=self._order.arguments,
            origins=lambda asked: self._origin(asked, stage.index),
        )
        return built.build(stage.instructions)

    def _origin(self, asked: Piece | str, before: int) -> State:
        """What `--from` means for a stage: an earlier one, or an image."""
        text = asked if isinstance(asked, str) else asked.text
        place = asked if isinstance(asked, Piece) else self._file.stages[before].begin.image
        index = stages.stage_of(text, place, before, self._by_name)
        if index is None:
            return self._image(text, place)
        if index not in self._futures:  # of an ONBUILD, which nobody saw when the order was made
            place.fail(f"the stage `{text}` is not built: a trigger can't name a stage")
        return self._futures[index].result()

    def _image(self, text: str, place: Piece) -> State:
        """The state that an image is, got if it is not there yet."""
        with self._lock:
            found = self._images.get(text)
        if found is None:
            found = self._got(text, place)
            with self._lock:
                self._images[text] = found
        return found.copy()

    def _got(self, text: str, place: Piece) -> State:
        if text == "scratch":
            # As docker has it: programs of an image made from nothing are found all the same.
            return State(self._order.platform, config={"Env": [f"PATH={DEFAULT_PATH}"]})
        asked = reference.parse(text)
        if isinstance(asked, (reference.Host, reference.Directory, reference.Build)):
            place.fail(f"`{text[:80]}` is no image of layers: begin with an image of a registry,"
                " an archive or `scratch`")  # fmt: skip
        self._work.request.allow_image(text)
        try:
            stored = self._stored(text, asked)
        except Killed:
            raise
        except SandboxError as error:
            raise BuildFailed(place.place, f"use {text}", str(error)) from error
        return of_stored(stored)

    def _stored(self, text: str, asked: reference.Reference) -> Stored:
        """The image: the one that a name is known to mean, the registry's, or the one here."""
        work, request = self._work, self._work.request

        def listen(progress: Progress) -> None:
            work.tell(Pulling(text, progress))

        get = functools.partial(stored_image, work.store, progress=listen, on_stop=work.on_stop)
        if not isinstance(asked, reference.Registry) or asked.digest is not None:
            return get(asked)
        meant = request.bases.get(text)
        known = work.store.lookup(str(asked)) if request.pull and meant is None else None
        if meant is not None:
            found = get(asked.with_digest(meant))
        elif request.pull and (known is None or bases.from_registry(known)):
            from sandbox_kernel.image.registry import pull

            pulled = pull(work.store, asked, progress=listen, on_stop=work.on_stop)
            found = work.store.find(pulled.digest)
        else:
            found = get(asked)
        if request.used is not None and (meant is not None or bases.from_registry(found)):
            request.used(text, found.digest)
        return found


def _write(store: Store, request: BuildRequest, state: State) -> Stored:
    """Configuration and manifest, and the name."""
    labels: Mapping[str, str] = request.labels
    if labels:
        state.config["Labels"] = {**(state.config.get("Labels") or {}), **labels}
    if not state.layers:
        state.add_layer(layers.empty(store))
    last = max((line.created or "" for line in state.history), default="")
    config = ImageConfig(
        created=last or None,
        author=state.author,
        architecture=state.platform.architecture,
        os=state.platform.os,
        variant=state.platform.variant,
        config=msgspec.convert(state.config, Execution),
        rootfs=RootFS(diff_ids=[layer.diff_id for layer in state.layers]),
        history=state.history or None,
    )
    data = documents.encode(config)
    described = documents.describe(data, documents.OCI_CONFIG)
    manifest = Manifest(
        schema_version=2, config=described, layers=[_plain(layer.blob) for layer in state.layers]
    )
    written = documents.encode(manifest)
    described = documents.describe(written, documents.OCI_MANIFEST)
    # What is there already is not written again: each write waits for the disk.
    kept = store.lookup(request.name or described.digest)
    if kept is not None and kept.digest == described.digest:
        return kept
    store.write(data)
    store.write(written)
    source = f"build:{request.context}" if request.context else "build"
    return store.tag(request.name, described, source=source)


def _plain(blob: documents.Descriptor) -> documents.Descriptor:
    """A layer of a base image under OCI's name for its type: the manifest is of OCI's kind."""
    kinds = {
        "none": documents.OCI_LAYER,
        "gzip": documents.OCI_LAYER_GZIP,
        "zstd": documents.OCI_LAYER_ZSTD,
    }
    compression = documents.COMPRESSION.get(blob.media_type)
    if compression is None:
        raise ImageError(f"keep layer `{blob.digest}`: its type `{blob.media_type}` is not known")
    return msgspec.structs.replace(blob, media_type=kinds[compression])

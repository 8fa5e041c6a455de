"""Pushing: from the store to a registry, only what the registry lacks.

Source: distribution specification 1.1, "Pushing blobs" (mount from another repository, chunked
upload, where an upload broke off) and "Pushing Manifests". The manifest goes last, so that a name
never means an image of which something is missing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from urllib.parse import quote

import httpx

from sandbox_kernel.errors import ImageError, RegistryError
from sandbox_kernel.image import reference as references
from sandbox_kernel.image.digest import Digest
from sandbox_kernel.image.documents import Descriptor
from sandbox_kernel.image.reference import Registry
from sandbox_kernel.image.registry.client import MAY_PASS, Client
from sandbox_kernel.image.registry.configuration import Configuration, load
from sandbox_kernel.image.registry.connections import Cancellation
from sandbox_kernel.image.registry.endpoints import upstream
from sandbox_kernel.image.registry.progress import Listener, Teller
from sandbox_kernel.image.registry.threads import in_turn
from sandbox_kernel.image.store import Store, Stored

CHUNK = 16 << 20
"""Bytes of a blob in one request."""
LARGEST_CHUNK = 1 << 30
_PIECE = 1 << 20
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,18})")


def push(
    store: Store,
    image: Stored,
    reference: Registry,
    *,
    progress: Listener | None = None,
    configuration: Configuration | None = None,
) -> Digest:
    """Brings an image to the registry under a name; its digest there is that of the store.

    Raises RegistryError and ImageError, which say which layer and why.
    """
    if reference.digest is not None and reference.digest != image.digest:
        raise ImageError(
            f"push image `{image.digest}` as `{reference}`: that is the name of another one: "
            "leave the digest away, or name the image that has it"
        )
    settings = configuration if configuration is not None else load()
    endpoint = upstream(reference, settings)
    with Client(endpoint, settings, Cancellation(), actions="pull,push") as client:
        came_from = _repository_there(image, reference)
        if came_from is not None:
            client.scopes.append(f"repository:{came_from}:pull")
        client.settle()
        pushing = _Push(store, client, Teller(progress), came_from)
        parts = {part.digest: part for part in (*image.manifest.layers, image.manifest.config)}
        for part in parts.values():
            pushing.tell(part.digest, "waiting", 0, part.size)
        in_turn(
            pushing.put,
            sorted(parts.values(), key=lambda part: -part.size),
            threads=settings.parallel,
            cancellation=client.cancellation,
        )
        raw = store.read(image.digest)
        kind = image.manifest.media_type
        _put_manifest(client, reference.tag or image.digest, raw, kind, image.digest)
    return image.digest


def _repository_there(image: Stored, target: Registry) -> str | None:
    """The repository of the same registry that the image was got from: its blobs are there."""
    try:
        source = references.parse(image.source) if image.source else None
    except ImageError:
        return None
    if not isinstance(source, Registry) or source.authority != target.authority:
        return None
    return source.repository if source.repository != target.repository else None


class _Push:
    """The blobs of one image."""

    def __init__(self, store: Store, client: Client, teller: Teller, came_from: str | None) -> None:
        self.store = store
        self.client = client
        self.tell = teller.tell
        self.came_from = came_from

    def put(self, part: Descriptor) -> None:
        """One blob, unless the registry has it."""
        try:
            if self._is_there(part):
                self.tell(part.digest, "there", part.size, part.size)
                return
            upload = self._begin(part)
            if upload is None:
                self.tell(part.digest, "mounted", part.size, part.size)
                return
            blob = self.store.open_blob(part.digest)
            try:
                upload.run(blob)
            finally:
                os.close(blob)
        except BaseException:
            self.tell(part.digest, "failed", 0, part.size)
            raise
        self.tell(part.digest, "done", part.size, part.size)

    def _is_there(self, part: Descriptor) -> bool:
        what = f"look for layer {part.digest}"
        with self.client.open(
            "HEAD", f"blobs/{part.digest}", what=what, accept=(200, 404)
        ) as answer:
            return answer.status_code == 200

    def _begin(self, part: Descriptor) -> _Upload | None:
        """An upload that the registry is ready for; None: it was mounted from the other one."""
        path, what = "blobs/uploads/", f"push layer {part.digest}"
        if self.came_from is not None:
            path += f"?mount={quote(part.digest)}&from={quote(self.came_from, safe='')}"
        with self.client.open(
            "POST", path, what=what, accept=(201, 202), headers={"Content-Length": "0"}
        ) as answer:
            if answer.status_code == 201:
                return None
            upload = _Upload(self, part, path)
            upload.note(answer)
            return upload


class _Upload:
    """One blob on its way, in chunks; after a break the registry says how far it is."""

    def __init__(self, pushing: _Push, part: Descriptor, location: str) -> None:
        self.client = pushing.client
        self.tell = pushing.tell
        self.part = part
        self.location = location
        self.what = f"push layer {part.digest}"
        self.chunk = CHUNK

    def run(self, blob: int) -> None:
        """Until the registry has it, and calls it by its digest."""
        at, furthest, broken = 0, 0, 0
        while at < self.part.size:
            try:
                at = self._patch(blob, at)
                # Only what is new counts: a registry that forgets again and again would never end.
                if at > furthest:
                    furthest, broken = at, 0
            except RegistryError as error:
                broken += 1
                if broken >= self.client.limits.tries or error.status not in (0, 416, *MAY_PASS):
                    raise
                self.client.cancellation.wait(self.client.pause(broken))
                at = self._where()
        join = "&" if "?" in self.location else "?"
        with self.client.open(
            "PUT",
            f"{self.location}{join}digest={quote(self.part.digest)}",
            what=self.what,
            accept=(201,),
            headers={"Content-Length": "0", "Content-Type": "application/octet-stream"},
        ):
            pass

    def _patch(self, blob: int, at: int) -> int:
        """The next chunk; how many bytes are there now."""
        count = min(self.chunk, self.part.size - at)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(count),
            "Content-Range": f"{at}-{at + count - 1}",
        }
        limits = self.client.limits
        with self.client.open(
            "PATCH",
            self.location,
            what=self.what,
            accept=(202, 204),
            headers=headers,
            content=lambda: self._pieces(blob, at, count),
            tries=1,
            seconds=limits.headers + count / limits.least_rate,
        ) as answer:
            self.note(answer)
            return at + count

    def _pieces(self, blob: int, at: int, count: int) -> Iterator[bytes]:
        end = at + count
        while at < end:
            self.client.cancellation.check()
            piece = os.pread(blob, min(_PIECE, end - at), at)
            if not piece:
                raise ImageError(
                    f"{self.what}: the store has only {at} of its {self.part.size} bytes: run "
                    "`sandbox-kernel image repair`"
                )
            at += len(piece)
            yield piece
            self.tell(self.part.digest, "uploading", at, self.part.size)

    def _where(self) -> int:
        """How many bytes the registry has of a broken upload."""
        with self.client.open("GET", self.location, what=self.what, accept=(202, 204)) as answer:
            self.note(answer)
            found = _RANGE.fullmatch(answer.headers.get("range", ""))
            have = int(found[1]) + 1 if found else 0
        # An upload with nothing in it is said to hold `0-0`, as is one with one byte.
        have = 0 if have == 1 else have
        if have > self.part.size:
            raise RegistryError(self.what, self.client.endpoint, f"it has {have} bytes of it")
        return have

    def note(self, answer: httpx.Response) -> None:
        """Where it goes on, and how large a chunk has to be: the answer that begins it says both.

        Raises RegistryError when it leads elsewhere.
        """
        self.location = self.client.location(answer, self.location)
        least = answer.headers.get("oci-chunk-min-length", "")
        if least.isascii() and least.isdigit():
            self.chunk = min(max(CHUNK, int(least[:12])), LARGEST_CHUNK)


def _put_manifest(client: Client, name: str, raw: bytes, media_type: str, digest: Digest) -> None:
    what = f"push manifest {name}"
    with client.open(
        "PUT",
        f"manifests/{name}",
        what=what,
        accept=(201,),
        headers={"Content-Type": media_type},
        content=raw,
    ) as answer:
        said = answer.headers.get("docker-content-digest")
    if said and said.startswith("sha256:") and said != digest:
        raise RegistryError(
            what, client.endpoint, f"the registry calls it {said}, but it is {digest}"
        )

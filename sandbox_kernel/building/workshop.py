"""Containers in which the steps of a build are done, and what is asked of them.

A step gets a container of the layers below it, held by its own pid 1. What runs in it has the
limits and the network of the plan, and the capabilities that docker gives a build by default, over
the container's own user namespace and nothing else. Every entrance comes through `plan_of` (one
list of capabilities, whatever a Containerfile, a flag or a front end says: CVE-2024-23653).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sandbox_kernel.building import layers
from sandbox_kernel.building.state import Layer
from sandbox_kernel.building.work import Work
from sandbox_kernel.bundle import defaults
from sandbox_kernel.container import Container, ProcessSpec
from sandbox_kernel.errors import ContainerError, SandboxError, StepFailed
from sandbox_kernel.image.image import Image
from sandbox_kernel.image.store import Store
from sandbox_kernel.policy import ContainerPlan
from sandbox_kernel.runtime import transfer

# moby, oci/caps/defaults.go, all of it. What the first user namespace is asked for (AUDIT_WRITE) no
# one of ours has, so it changes nothing but what a program reads about itself. NET_RAW holds in the
# step's own network alone, whose other end drops what comes from another's address; packet sockets
# stay closed to it by the filter of system calls, see `plan_of`.
CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
    "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
)
HOSTNAME = "build"
"""The same for every step: what a program writes of it is the same the next time."""
END_SECONDS = 30.0
MOST_BYTES = 1 << 40
MOST_FILES = 2_000_000
LONGEST_WORD = 4096


def plan_of(plan: ContainerPlan, label: str, *, network: str = "none") -> ContainerPlan:
    """The plan of a step: the limits that were allowed, and what only a build decides."""
    return plan.replaced(
        image=label,
        network=network,
        publish=(),
        hostname=HOSTNAME,
        mount=(),
        read_only=False,
        env=(),
        workdir=None,
        user="0:0",
        entrypoint=None,
        name=None,
        keep=False,
        cap_add=CAPABILITIES,
        cap_drop=(),
        packet_sockets=False,
        warm=(),
        cold=True,
    )


class Bench:
    """One container of a step."""

    def __init__(self, container: Container, made: Sequence[str]) -> None:
        """`made`: places that the runtime mounts something on, and may have made for that."""
        self.container = container
        self._made = list(made)

    def place(self, order: Mapping[str, Any], give: Callable[[int], None]) -> None:
        """Put the files that `give` writes as records where `order` says. Raises StepFailed."""
        whole = {"do": "place", "most_bytes": MOST_BYTES, "most_files": MOST_FILES, **order}
        read, write = os.pipe2(os.O_CLOEXEC)
        failed: list[BaseException] = []

        def work() -> None:
            try:
                give(write)
                transfer.write_record(write, {"kind": "end"})
            except BrokenPipeError:
                pass  # the other side says why it wants no more
            except BaseException as error:  # raised again below, where somebody waits for it
                failed.append(error)
            finally:
                os.close(write)

        giving = threading.Thread(target=work, name="files of a build", daemon=True)
        giving.start()
        try:
            self._ask(whole, {0: read}, taken=True)
        except SandboxError:
            giving.join()
            if failed:
                raise failed[0] from None
            raise
        giving.join()
        if failed:
            raise failed[0]

    def make_folder(self, order: Mapping[str, Any]) -> None:
        """WORKDIR. Raises StepFailed."""
        self._ask({"do": "make-folder", **order}, {})

    def end_others(self) -> None:
        """End all processes in it but its pid 1. Raises StepFailed."""
        self._ask({"do": "end-others"}, {})

    def own(self, path: str, uid: int, gid: int, mode: int) -> None:
        """Owner and mode of a mounted folder. Raises StepFailed."""
        self._ask({"do": "own", "path": path, "uid": uid, "gid": gid, "mode": mode}, {})

    def owner(self, text: str) -> str:
        """`user[:group]` as numbers, by the image's own files. Raises StepFailed."""
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                process = self._run({"do": "owner", "owner": text}, {1: write})
            finally:
                os.close(write)
            try:
                stream = transfer.Unpacking(read, most_bytes=0, most_files=1)
                ((record, _),) = stream.passing()
            finally:
                process.close()
        finally:
            os.close(read)
        return f"{int(record['uid'])}:{int(record['gid'])}"

    def gather(self, order: Mapping[str, Any], sink: int) -> None:
        """Write the files that patterns name to a descriptor. Raises StepFailed."""
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            process = self._run({"do": "gather", **order}, {1: write})
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        try:
            _pass_on(read, sink)
        except BaseException:
            process.kill()
            raise
        finally:
            os.close(read)
            process.close()

    def layer(self, store: Store, epoch: int | None) -> Layer | None:
        """What changed in it, as a layer; everything that still runs in it is ended first.

        Raises StepFailed, ImageError.
        """
        writable, layered = self.container.open_writable()
        read, write = os.pipe2(os.O_CLOEXEC)
        heard, said = os.pipe2(os.O_CLOEXEC)
        order = {"do": "layer", "layered": layered, "made": self._made, "epoch": epoch}
        try:
            try:
                process = self._run(order, {0: writable, 1: write, 2: said})
            finally:
                for descriptor in (writable, write, said):
                    os.close(descriptor)
            try:
                made = layers.keep(store, read)
                word = os.read(heard, LONGEST_WORD).decode(errors="replace")
                ended = process.wait(END_SECONDS)
            finally:
                process.close()
        finally:
            os.close(read)
            os.close(heard)
        if word:
            raise ContainerError(word)
        if ended.reason != "exited" or ended.status:
            raise ended.error() or ContainerError("keep the changed files: what reads them failed")
        return made

    def _ask(
        self, order: Mapping[str, Any], descriptors: dict[int, int], *, taken: bool = False
    ) -> None:
        """Have something done, and hear how it went. `taken`: the descriptors are closed."""
        answer, answered = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                process = self._run(order, {**descriptors, 1: answered})
            finally:
                os.close(answered)
                for descriptor in descriptors.values() if taken else ():
                    os.close(descriptor)
            try:
                transfer.Unpacking(answer, most_bytes=0, most_files=0).into(-1, "")
            except StepFailed as error:
                raise process.wait(END_SECONDS).error() or error from None
            finally:
                process.close()
        finally:
            os.close(answer)

    def _run(self, order: Mapping[str, Any], descriptors: Mapping[int, int]) -> Any:
        with open(os.devnull, "rb") as nothing:
            # In a bare container there is no /dev/null to be given for what is not given.
            null = nothing.fileno()
            process = self.container.run(
                ProcessSpec(
                    argv=("build",),
                    transfer=order,
                    descriptors={0: null, 1: null, 2: null, **descriptors},
                    cwd="/",
                )
            )
        try:
            if not process.started():
                raise process.wait(END_SECONDS).error() or ContainerError(
                    "start a step of the build: it was not started"
                )
        except BaseException:
            process.close()
            raise
        return process


def _pass_on(source: int, sink: int) -> None:
    """Records from one stage to the next; the last one tells whether all came."""
    stream = transfer.Unpacking(source, most_bytes=MOST_BYTES, most_files=MOST_FILES)
    for record, pieces in stream.passing():
        transfer.write_record(sink, record)
        for piece in pieces:
            transfer.write_piece(sink, piece)


@contextmanager
def bench(
    work: Work,
    below: Sequence[Layer],
    *,
    label: str = "build",
    mounts: Sequence[Mapping[str, Any]] = (),
    config: Mapping[str, Any] | None = None,
    network: str = "none",
    bare: bool = True,
) -> Iterator[Bench]:
    """A container of these layers, which is gone at the end of the block.

    A `bare` one is for files alone: nothing is mounted in it, so its files are those of the image.
    """
    made: Image = layers.as_image(work.store, below, label, mounts=mounts)
    made = made.replaced(config=config or {}, bare=bare, digest=f"{made.digest} {bare} {config}")
    plan = plan_of(work.request.plan, label, network=network)
    with Container.create(plan, resolved=made) as container:
        work.note([*container.not_in_force, *made.notices])
        basic = [] if bare else defaults.mounts(None)
        yield Bench(container, [mount["destination"] for mount in (*basic, *mounts)])

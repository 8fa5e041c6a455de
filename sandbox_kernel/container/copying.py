"""Copying files and folders into and out of a container; links stay links, devices stay behind."""

from __future__ import annotations

import os
import posixpath
import threading
from collections.abc import Callable, Mapping

from sandbox_kernel import errors
from sandbox_kernel.container.container import Container
from sandbox_kernel.container.process import ProcessSpec
from sandbox_kernel.runtime import transfer

MOST_BYTES = 16 << 30
MOST_FILES = 1_000_000
END_SECONDS = 10.0


def copy_out(
    source: Container, path: str, destination: str, *, most_bytes: int, most_files: int
) -> list[tuple[str, str]]:
    """The file, link or folder at a path of the container to a place of the host.

    Into a folder that is there, else under that name; a file there is replaced, when the new one
    is whole. Returns what was passed over: path and reason. Owner is who calls, and bits like
    setuid are dropped. Raises CopyRefused, StepFailed.
    """
    _absolute(path)
    name = posixpath.basename(posixpath.normpath(path)) or source.name
    try:
        parent, chosen = transfer.place(destination, name)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise errors.StepFailed("copy to", destination, why, error.errno or 0) from error
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        unpacking = transfer.Unpacking(read, most_bytes=most_bytes, most_files=most_files)
        order = {"do": "pack", "path": posixpath.normpath(path)}
        exchange(source, order, {1: write}, lambda: unpacking.into(parent, chosen))
    finally:
        os.close(read)
        os.close(parent)
    return unpacking.skipped


def copy_in(source: str, target: Container, path: str, *, most_bytes: int, most_files: int) -> None:
    """A file, link or folder of the host to a place of the container, as its user has it there.

    Where it goes is as with `copy_out`, as the container's own programs see it. Raises
    CopyRefused, StepFailed.
    """
    _absolute(path)
    clean = os.path.normpath(source)
    if not os.path.lexists(clean):
        raise errors.StepFailed("copy", source, "there is no such file or folder", 2)
    order = {
        "do": "unpack",
        "path": path,
        "name": os.path.basename(os.path.abspath(clean)),
        "most_bytes": most_bytes,
        "most_files": most_files,
    }
    send(target, order, lambda sink: transfer.pack(os.path.abspath(clean), sink), source)


def send(
    target: Container,
    order: Mapping[str, object],
    pack: Callable[[int], None],
    shown: str,
    *,
    folder: str | None = "/",
) -> None:
    """Have the side in the container unpack what `pack` writes to a descriptor.

    Raises CopyRefused, StepFailed.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    answer, answer_end = os.pipe2(os.O_CLOEXEC)
    packed: list[BaseException] = []

    def work() -> None:
        try:
            pack(write)
        except BrokenPipeError:
            pass  # the other side says why it wants no more
        except BaseException as error:  # raised again where somebody waits for it
            packed.append(error)
        finally:
            os.close(write)

    packing = threading.Thread(target=work, name=f"copy to {target.name}", daemon=True)

    def hear() -> None:
        packing.start()
        os.close(read)
        transfer.Unpacking(answer, most_bytes=0, most_files=0).into(-1, "")

    try:
        exchange(target, order, {0: read, 1: answer_end}, hear, folder=folder)
    except errors.StepFailed:
        if not packed:
            raise
    finally:
        os.close(answer)
        if packing.ident is None:  # it did not come to that
            os.close(read)
            os.close(write)
        else:
            packing.join()
    if packed and isinstance(packed[0], errors.StepFailed):
        raise packed[0]
    if packed:
        raise errors.StepFailed("read", shown, str(packed[0])) from packed[0]


def exchange(
    container: Container,
    order: Mapping[str, object],
    descriptors: dict[int, int],
    work: Callable[[], None],
    *,
    folder: str | None = "/",
) -> None:
    """Run our side while the side in the container runs; end that one when ours failed.

    It begins in `folder`, or where the container's programs begin. Raises NoSuchContainer.
    """
    try:
        process = container.run(
            ProcessSpec(argv=("cp",), transfer=order, descriptors=descriptors, cwd=folder)
        )
    finally:
        os.close(descriptors[1])
    try:
        if not process.started():
            raise process.wait(END_SECONDS).error() or errors.NoSuchContainer(container.name)
    except BaseException:  # the container is gone, or too full for one more process
        process.close()
        raise
    try:
        work()
    except errors.StepFailed as error:
        # Out of memory, killed: why the stream ended early, if that is why.
        raise process.wait(END_SECONDS).error() or error from None
    finally:
        if not process.ended():
            process.kill()
        process.close()


def _absolute(path: str) -> None:
    if not path.startswith("/") or "\0" in path:
        raise errors.InvalidOption("PATH", path, "an absolute path in the container")

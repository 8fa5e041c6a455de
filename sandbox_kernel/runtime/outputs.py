"""What a container writes to the outputs that its caller did not take: read into its log.

A process gets a pipe for each of them, of which the launcher's loop has the other end.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox_kernel.runtime.held import Held
    from sandbox_kernel.runtime.loop import Loop

AT_ONCE = 65536


def collect(loop: Loop, held: Held, numbers: dict[int, int]) -> None:
    """Give the process pipes for the outputs that it has not, and read them into the log."""
    for stream in (1, 2):
        if stream in numbers:
            continue
        source, numbers[stream] = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(source, False)
        held.outputs[source] = stream
        _watch(loop, held, source)


def end(loop: Loop, held: Held) -> None:
    """Everything that wrote is gone: what it wrote last is in the pipes."""
    for source in list(held.outputs):
        while _read(loop, held, source):
            pass
        if source in held.outputs:
            _close(loop, held, source)


def _watch(loop: Loop, held: Held, source: int) -> None:
    def read() -> None:
        _read(loop, held, source)

    loop.watch(source, read)


def _read(loop: Loop, held: Held, source: int) -> bool:
    """Read once; False when there is nothing more for now, or ever."""
    try:
        data = os.read(source, AT_ONCE)
    except BlockingIOError:
        return False
    if data:
        held.log.append((held.outputs[source], data), len(data))
    else:
        _close(loop, held, source)
    return bool(data)


def _close(loop: Loop, held: Held, source: int) -> None:
    loop.forget(source)
    del held.outputs[source]
    os.close(source)

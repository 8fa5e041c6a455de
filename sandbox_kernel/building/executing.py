"""The program of a RUN, from its start to its end, and what it writes."""

from __future__ import annotations

import codecs
import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack

from sandbox_kernel.building import running, workshop
from sandbox_kernel.building.events import StepOutput
from sandbox_kernel.building.mounting import Mounted
from sandbox_kernel.building.state import State
from sandbox_kernel.building.work import Work
from sandbox_kernel.container import Exit, ProcessSpec
from sandbox_kernel.containerfile.instructions import Run
from sandbox_kernel.errors import BuildFailed, OutOfMemory

KEPT_OUTPUT = 8192
SHORTEST_MASKED = 3
PIECE = 1 << 16
SECONDS_TO_READ = 0.5


def execute(
    work: Work,
    bench: workshop.Bench,
    state: State,
    made: Run,
    program: tuple[list[str], bytes | None],
    mounted: Mounted,
    step: tuple[str, int],
) -> None:
    """Run it to its end, passing on what it writes. Raises BuildFailed for a bad end."""
    argv, script = program
    with ExitStack() as stack:
        inside: dict[int, int] = {}
        if script is not None:
            file = os.memfd_create("script", os.MFD_CLOEXEC)
            stack.callback(os.close, file)
            os.fchmod(file, 0o755)
            os.write(file, script)
            inside[running.SCRIPT] = os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, inside[running.SCRIPT])
        spec = ProcessSpec(
            argv=tuple(argv),
            env=mounted.environment,
            cwd=state.workdir,
            user=state.user or None,
            root_only=True,
            descriptors=inside,
            timeout=work.request.plan.timeout,
        )
        ended, output = _follow(work, bench, spec, mounted.secrets, step)
    if ended.reason == "exited" and ended.status == 0:
        return
    failure = ended.error()
    if failure is not None:
        why = str(failure)
    elif ended.signal is not None:
        why = f"it was ended by signal {ended.signal}"
    else:
        why = f"it ended with status {ended.status}"
    raise BuildFailed(made.place, made.title, why, status=ended.shell_status, output=output) from (
        failure if isinstance(failure, OutOfMemory) else None
    )


def _follow(
    work: Work,
    bench: workshop.Bench,
    spec: ProcessSpec,
    secrets: list[bytes],
    step: tuple[str, int],
) -> tuple[Exit, str]:
    """Start it, pass on what it writes until it ends; its exit and the end of its output."""
    last: deque[str] = deque()
    size = 0
    lock = threading.Lock()

    def read(stream: int, source: int) -> None:
        nonlocal size
        for text in _masked(source, secrets):
            with lock:
                last.append(text)
                size += len(text)
                while size > KEPT_OUTPUT and len(last) > 1:
                    size -= len(last.popleft())
            work.tell(StepOutput(*step, stream, text))

    with ExitStack() as stack:
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(2)]
        for source, _ in pipes:
            stack.callback(os.close, source)
        ends = {stream: end for stream, (_, end) in enumerate(pipes, 1)}
        try:
            inside = {**spec.descriptors, **ends}
            process = bench.container.run(spec.replaced(descriptors=inside))
        finally:
            for end in ends.values():
                os.close(end)
        stack.callback(process.close)
        stack.callback(work.on_stop(lambda: bench.container.kill("the build was stopped")))
        readers = [
            threading.Thread(target=read, args=(stream, source), daemon=True)
            for stream, (source, _) in enumerate(pipes, 1)
        ]
        for reader in readers:
            reader.start()
        ended = process.wait()
        for reader in readers:
            reader.join(SECONDS_TO_READ)
            if reader.is_alive():  # a process that it left still holds the pipe
                bench.end_others()
                reader.join()
    return ended, "".join(last)


def _masked(source: int, secrets: list[bytes]) -> Iterator[str]:
    """What comes from a pipe as text, with the values of secrets taken out, across its pieces."""
    hidden = [part for value in secrets for part in _lines(value)]
    longest = max((len(part) for part in hidden), default=0)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    held = b""
    while data := os.read(source, PIECE):
        held += data
        for part in hidden:
            held = held.replace(part, b"***")
        # The end may be the beginning of a secret, unless it is the end of a line.
        cut = len(held) if not longest or held.endswith(b"\n") else max(0, len(held) - longest)
        if text := decoder.decode(held[:cut]):
            yield text
        held = held[cut:]
    if text := decoder.decode(held, final=True):
        yield text


def _lines(value: bytes) -> list[bytes]:
    found = [value.strip(), *(line.strip() for line in value.splitlines())]
    return sorted({part for part in found if len(part) >= SHORTEST_MASKED}, key=len, reverse=True)

"""strace(1) lets one call of a process fail, say something else, or be its last one.

`when=N` counts the calls of each process (and of each thread) by itself.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence

STRACE = "/usr/bin/strace"
SECONDS = 30.0


@contextlib.contextmanager
def traced(pid: int, calls: str, how: str) -> Iterator[None]:
    """While it lasts, something happens to these calls of a process and of what it starts."""
    inject = f"inject={calls}:{how}"
    tracer = subprocess.Popen(
        [STRACE, "-f", "-o", "/dev/null", "-p", str(pid), "-e", f"trace={calls}", "-e", inject],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert tracer.stderr
    assert "attached" in tracer.stderr.readline()
    try:
        yield
    finally:
        # Asked to end it would wait for each traced process to stop, which a frozen one never does.
        tracer.kill()
        tracer.communicate(timeout=SECONDS)


def run(
    argv: Sequence[object],
    calls: str,
    how: str = "",
    *,
    log: object = "/dev/null",
    paths: Sequence[object] = (),
    follow: bool = True,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """A command to which something happens from its first call on; with `paths` only to those."""
    words = [STRACE, *(["-f"] if follow else []), "-qq", "-o", str(log), "-e", f"trace={calls}"]
    for path in paths:
        words += ["-P", str(path)]
    if how:
        words += ["-e", f"inject={calls}:{how}"]
    return subprocess.run(
        [*words, *map(str, argv)],
        capture_output=True, text=True, check=False, timeout=SECONDS, env=env,
    )  # fmt: skip

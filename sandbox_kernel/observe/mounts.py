"""What is mounted in the mount namespace of a process.

Source: /proc/PID/mountinfo (proc_pid_mountinfo(5)).
"""

from __future__ import annotations

from dataclasses import dataclass

from sandbox_kernel.observe.fact import Fact, fact, read, text


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount, in the order in which they were put on each other."""

    number: int
    parent: int
    target: str
    kind: str
    """The file system: overlay, tmpfs, proc, ext4, ..."""
    source: str
    root: str
    """What of the file system is shown here."""
    options: tuple[str, ...]
    """Of this mount: ro, nosuid, ..."""
    of_file_system: tuple[str, ...]
    """Of the file system itself; of an overlay without the paths of its layers."""

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written there."""
        return "ro" in self.options or "ro" in self.of_file_system


def of_process(pid: int | str) -> Fact[tuple[Mount, ...]]:
    """The mounts that a process sees, whose root is its own."""
    path = f"/proc/{pid}/mountinfo"
    return fact(path, lambda: tuple(map(_mount, read(path).splitlines())))


_PATHS = ("lowerdir", "upperdir", "workdir")


def _mount(line: bytes) -> Mount:
    before, _, after = line.partition(b" - ")
    fields = before.split(b" ")
    kind, source, options = (*after.split(b" "), b"", b"")[:3]
    return Mount(
        number=int(fields[0]),
        parent=int(fields[1]),
        target=_unescape(fields[4]),
        kind=_unescape(kind),
        source=_unescape(source),
        root=_unescape(fields[3]),
        options=tuple(text(fields[5]).split(",")),
        of_file_system=tuple(
            _unescape(option)
            for option in options.split(b",")
            if text(option).partition("=")[0].rstrip("+") not in _PATHS
        ),
    )


def _unescape(field: bytes) -> str:
    """A path as it is, from its form with octal escapes for space, tab, newline and backslash."""
    head, *rest = field.split(b"\\")
    return text(head + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest))

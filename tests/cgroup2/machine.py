"""A machine with cgroup v2: a user-mode Linux kernel that sees this checkout and its environment.

    python tests/cgroup2/machine.py [--seconds N] ARGV...

boots it (three seconds), runs ARGV as root inside, prints what ARGV printed, and exits with its
status. The host's root file system is there read-only; `/tmp`, `/var/tmp`, `/run`, `/dev` and
`$HOME` are the machine's own, the first two on a disk with ext4, since its kernel can't show the
files of a tmpfs with other ids. Needs Debian's package `user-mode-linux`. It runs in a pid
namespace of its own, so that nothing of it is left, however it ends.

To add tests that run inside, put `test_*.py` into `tests/cgroup2/inside/`: `test_in_machine.py`
boots the machine once and shows each of them as a test of its own. They run as root with the
environment of the checkout, see `SANDBOX_KERNEL_TEST_MACHINE` in their environment, and are never
collected on the host. An ordinary user inside: the host's `tester`; give him `/usr/bin/python3`
when the environment lies below a home that he can't enter. Make times generous: it is slow.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
KERNEL = Path("/usr/bin/linux.uml")
MEMORY = "1G"
DISK = 4 << 30  # a sparse file


class Outcome(NamedTuple):
    """What a command did inside. `status` is None when the machine did not come to its end."""

    status: int | None
    output: str
    console: str
    files: dict[str, bytes]

    @property
    def why(self) -> str:
        """Both texts, for a failure."""
        return f"status {self.status}\n--- output\n{self.output}\n--- console\n{self.console}"


def run(
    argv: list[str], *, seconds: float = 120, keep: tuple[str, ...] = (), memory: str = MEMORY
) -> Outcome:
    """Boot, run `argv` in the checkout, switch off.

    `seconds` bounds all of it. `keep` names files that the command makes in `/run/machine`, whose
    bytes come back.
    """
    if not KERNEL.exists():
        raise FileNotFoundError(f"{KERNEL} is not there: `apt-get install user-mode-linux`")
    with tempfile.TemporaryDirectory(prefix="sandbox-kernel-machine-", dir="/var/tmp") as name:
        folder = Path(name)
        _make_disk(folder / "disk")
        (folder / "command").write_text(f"cd {shlex.quote(str(CHECKOUT))}\n{shlex.join(argv)}\n")
        try:
            console = subprocess.run(
                _boot(folder, memory),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                check=False,
            ).stdout
        except subprocess.TimeoutExpired as error:
            console = (error.stdout or b"") + f"\nended after {seconds:g} s\n".encode()
        status = _bytes(folder / "status").strip()
        return Outcome(
            status=int(status) if status else None,
            output=_bytes(folder / "output").decode(errors="replace"),
            console=console.decode(errors="replace"),
            files={each: _bytes(folder / each) for each in keep},
        )


def _boot(folder: Path, memory: str) -> list[str]:
    own_processes = ["/usr/bin/unshare", "--pid", "--fork", "--kill-child=SIGKILL"]
    return [
        *own_processes,
        *("/usr/bin/env", "-i", f"TMPDIR={folder}"),
        *(str(KERNEL), "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"),
        *(f"mem={memory}", f"init={HERE / 'init.sh'}", f"machine_folder={folder}"),
        f"machine_checkout={CHECKOUT}",
        f"ubd0={folder / 'disk'}",
        *("con=null", "con0=fd:0,fd:1", f"uml_dir={folder}/", "quiet"),
    ]


def _make_disk(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(DISK)
    words = ["/usr/sbin/mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", str(path)]
    subprocess.run(words, check=True)


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def main(arguments: list[str]) -> int:
    """The command line."""
    seconds = 600.0
    if arguments[:1] == ["--seconds"]:
        seconds = float(arguments[1])
        arguments = arguments[2:]
    if not arguments:
        print(__doc__)
        return 2
    outcome = run(arguments, seconds=seconds)
    print(outcome.output, end="")
    if outcome.status is None:
        print(outcome.console, file=sys.stderr)
        return 125
    return outcome.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

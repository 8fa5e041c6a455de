"""Numbers of system calls on this machine, from the kernel's header as the compiler sees it."""

from __future__ import annotations

import re
import subprocess

from sandbox_kernel.linux import seccomp


def _read() -> dict[str, int]:
    text = subprocess.run(
        ["/usr/bin/gcc", "-E", "-dM", "-x", "c", "-"],
        input="#include <asm/unistd.h>\n",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    pairs = re.findall(r"^#define __NR_(\w+) (\d+)$", text, re.MULTILINE)
    return {name: int(number) for name, number in pairs} | seccomp.NEWER_NUMBERS


NUMBERS = _read()

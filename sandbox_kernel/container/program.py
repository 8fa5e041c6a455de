"""Programs of ours that run inside, each one sealed memory file made of `sandbox_kernel/inside`."""

from __future__ import annotations

import fcntl
import functools
import importlib.util
import marshal
import os

from .values import SEALS

MODULES = ("cell", "channel", "display", "failure", "hooks", "values")
KERNEL = ("application", "clients", "debugging", "kernel")
SHARED = ("template_memory",)
"""Modules of `sandbox_kernel/linux` that programs inside have too: they import nothing of ours."""
TEMPLATE = (*MODULES, *KERNEL, *SHARED, "first_cell", "prepared", "template", "ways")
PACKAGE = "sandbox_inside"
# `-c` and not a file name: a path in the container could be replaced by what is in it.
_START = (
    "import os;"
    "data=os.pread(3,os.fstat(3).st_size,0);"
    "exec(data[:data.index(0)]);"
    f"boot(globals().pop('data'),'{PACKAGE}.%s')"
)
START = _START % "cell"
START_KERNEL = _START % "kernel"
START_TEMPLATE = _START % "template"
STARTS = {"cell": START, "kernel": START_KERNEL}
"""What can be forked from a template: the module that runs, and how it starts by itself."""
START_CARRY = _START % "carry"
CARRY_MODULES = (*MODULES, "carry")


def source(name: str) -> str:
    """The text of a module of `sandbox_kernel/inside`, or of one that is shared."""
    package = os.path.dirname(os.path.dirname(__file__))
    folder = "linux" if name in SHARED else "inside"
    with open(os.path.join(package, folder, f"{name}.py"), encoding="utf-8") as file:
        return file.read()


@functools.cache
def program(modules: tuple[str, ...] = MODULES) -> int:
    """The descriptor of the memory file; made once, good for any number of containers at once."""
    sources = {PACKAGE: ""} | {f"{PACKAGE}.{name}": source(name) for name in modules}
    boot = source("boot").encode()
    # For a Python with the same byte code, compiled; for any other, also as source.
    codes = {
        name: compile(text, f"<sandbox {name}>", "exec", dont_inherit=True)
        for name, text in sources.items()
    }
    compiled = marshal.dumps(codes)
    data = b"".join(
        (
            boot,
            b"\0",
            importlib.util.MAGIC_NUMBER,
            len(compiled).to_bytes(4, "little"),
            compiled,
            repr(sources).encode(),
        )
    )
    descriptor = os.memfd_create("cell", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(descriptor, data)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    return descriptor

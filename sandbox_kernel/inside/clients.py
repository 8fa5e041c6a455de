"""jupyter_client without its clients and managers, until somebody asks for one of them.

A kernel needs its sessions and connections. The package imports all the rest as well, with
zipfile, importlib.metadata and asyncio's subprocesses: two MiB of a template that no kernel uses.
Here the names of that are found when they are asked for, and are what they always were. A
jupyter_client that has other parts is imported as it is.
"""

import functools
import importlib.util
import sys
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Iterable, Iterator, Mapping

PACKAGE = "jupyter_client"
LATER = {
    "asynchronous": ("AsyncKernelClient",),
    "blocking": ("BlockingKernelClient",),
    "manager": ("AsyncKernelManager", "KernelManager", "run_kernel"),
    "multikernelmanager": ("AsyncMultiKernelManager", "MultiKernelManager"),
    "provisioning": ("KernelProvisionerBase", "LocalProvisioner"),
}
"""Parts of the package, and what it imports of them."""
PARTS = (*LATER, "kernelspec", "managerabc")
"""With those that come along; as attributes of the package they are there without an import."""
NAMES = {name: part for part, names in LATER.items() for name in names}


@contextmanager
def standing_in(wanted: Mapping[str, Iterable[str]]) -> Iterator[None]:
    """What imports these names of these modules meanwhile gets them without a meaning."""
    stand_ins = {module: ModuleType(module) for module in wanted}
    for module, names in wanted.items():
        vars(stand_ins[module]).update(dict.fromkeys(names))
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for module in stand_ins:
            del sys.modules[module]


def imported() -> None:
    """The package, with names that are found later where that can be."""
    if any(name.partition(".")[0] == PACKAGE for name in sys.modules):
        return
    with standing_in({f"{PACKAGE}.{part}": names for part, names in LATER.items()}):
        try:
            package: Any = importlib.import_module(PACKAGE)
        except ImportError:
            return  # it has other parts: whoever needs it imports it as it is
    names = [name for name in NAMES if name in vars(package)]
    for name in names:
        delattr(package, name)
    there = [part for part in PARTS if importlib.util.find_spec(f"{PACKAGE}.{part}")]
    everything = sorted({*vars(package), *names, *there})
    package.__getattr__ = functools.partial(found, there)
    package.__dir__ = lambda: everything
    package.__all__ = [name for name in everything if not name.startswith("_")]


def found(parts: Any, name: str) -> Any:
    """An attribute of the package that was put off (PEP 562)."""
    if name in parts:
        return importlib.import_module(f"{PACKAGE}.{name}")
    if name not in NAMES:
        raise AttributeError(f"module {PACKAGE!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{PACKAGE}.{NAMES[name]}"), name)
    setattr(sys.modules[PACKAGE], name, value)
    return value


imported()

"""Which template a process may be forked from: said by plan and image, or that there is none.

A template is for one image, one set of variables and one filter (see `runtime.templates`); its nest
gets none of the caller's mounts and has limits of its own.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

from sandbox_kernel import bundle
from sandbox_kernel.bundle import seccomp_profile
from sandbox_kernel.container import learning, program
from sandbox_kernel.container.process import ProcessSpec
from sandbox_kernel.image import Image
from sandbox_kernel.linux import seccomp, seccomp_cache
from sandbox_kernel.policy import ContainerPlan
from sandbox_kernel.records import Record

NEST_MEMORY = 2 << 30
NEST_PIDS = 256
NEST_STORAGE = 64 << 20
ALSO = ("setns",)
"""What a template calls beyond what cells may: its child joins a container by it."""


class Wish(Record):
    """The template that a process is forked from, if it is there: what the launcher is told."""

    key: str
    family: str
    """Templates of one family differ in their modules alone: one may stand in for another."""
    main: str
    modules: tuple[str, ...]
    recipe: dict[str, Any]
    """How the nest is made, with the process that becomes the template."""

    def order(self) -> dict[str, Any]:
        """The part of it that goes with each request."""
        return {
            "key": self.key,
            "family": self.family,
            "main": self.main,
            "modules": list(self.modules),
        }

    def program(self) -> int:
        """The descriptor of what the template runs; ours to keep."""
        return program.program(program.TEMPLATE)


def wish(
    plan: ContainerPlan,
    image: Image,
    process: ProcessSpec,
    *,
    enforceable: Callable[[ContainerPlan], tuple[ContainerPlan, object]],
    kept: bool,
) -> Wish | None:
    """The template for this process; None where it has to start by itself.

    Another program than our runners, another user than root, capabilities, a learnt filter, the
    host's network or another container's: the template can't give its child what it hasn't got
    itself. A kernel is started once by a program, so only what is `kept` between programs has a
    template for one.
    """
    if plan.cold or plan.runtime != "embedded" or plan.keep or not _network_ahead(plan):
        return None
    if (
        plan.seccomp
        or plan.cap_add
        or plan.user not in (None, "0", "root")
        or process.user
        or process.logged
    ):
        return None
    if "seccomp=unconfined" in plan.security_opt or process.transfer or plan.entrypoint:
        return None
    if str(image.config.get("User") or "0") not in ("0", "root"):
        return None
    main = next(
        (name for name, start in program.STARTS.items() if process.argv[1:] == ("-c", start)), None
    )
    if main is None or process.argv[0] != image.interpreter or (main == "kernel" and not kept):
        return None
    modules = (
        KERNEL_MODULES
        if main == "kernel"
        else tuple(dict.fromkeys((*plan.warm, *learning.learnt())))
    )
    nest = enforceable(_nest(plan))[0]
    network = plan.network if plan.strict else "none"
    return _wish(main, modules, nest, network, image, _stamp(image))


def _network_ahead(plan: ContainerPlan) -> bool:
    """Whether its network can be made before somebody asks for it: it has no name of its own there,
    and no port leads to it."""
    if plan.network == "none":
        return True
    return bundle.is_connected(plan.network) and not plan.name and not plan.publish


KERNEL_MODULES = (
    "sandbox_inside.debugging",
    "ipykernel.kernelapp",
    "ipykernel.iostream",
    "ipykernel.ipkernel",
    "ipykernel.zmqshell",
    "ipykernel.debugger",
    "IPython.core.completer",
    "comm",
    "sandbox_inside.prepared",
)
"""What a kernel imports before it can answer; one that the image lacks is left out. The first
and the last are ours: `inside/debugging.py` with `inside/clients.py`, and `inside/prepared.py`."""


@functools.lru_cache(maxsize=64)
def _nest(plan: ContainerPlan) -> ContainerPlan:
    """The plan of a template's own container: nothing of the caller but what its modules see."""
    return ContainerPlan(
        image=plan.image,
        memory=NEST_MEMORY,
        memory_swap=NEST_MEMORY,
        pids_limit=NEST_PIDS,
        storage_size=NEST_STORAGE,
        ulimit=plan.ulimit,
        env=plan.env,
        strict=plan.strict,
        sources={},
    )


@functools.lru_cache(maxsize=64)
def _wish(
    main: str,
    modules: tuple[str, ...],
    plan: ContainerPlan,
    network: str,
    image: Image,
    stamp: str,
) -> Wish:
    """`network`: of the containers of its children, whose filter it has."""
    made = bundle.make(plan, image)
    profile = bundle.profile(plan.replaced(network=network), ALSO)
    assert profile is not None  # `wish` has none for a plan without a filter
    config: dict[str, Any] = {**made.config, "linux": {**made.config["linux"]}}
    config["linux"].pop("seccomp", None)
    process = {
        **config["process"],
        "args": [image.interpreter, "-c", program.START_TEMPLATE],
    }
    recipe: dict[str, Any] = {
        "config": config,
        "plan": {},
        "layers": list(made.layers),
        "leases": list(image.leases),
        "entries": list(image.entries),
        "trees": list(image.trees),
        "storage_size": made.storage_size,
        "seccomp_program": _encoded(profile),
        "closing_program": _encoded(seccomp_profile.closing(ALSO)),
        "process": process,
    }
    text = json.dumps([main, recipe, image.digest, stamp], sort_keys=True, default=str)
    family = hashlib.sha256(text.encode()).hexdigest()
    key = hashlib.sha256(f"{family} {' '.join(modules)}".encode()).hexdigest()
    return Wish(key, family, main, modules, recipe)


def _encoded(profile: seccomp.Profile) -> str:
    return base64.b64encode(seccomp_cache.program(profile)).decode()


def _stamp(image: Image) -> str:
    """Changes when packages are installed in the image `host`, which is the machine's own files."""
    if image.layers:
        return image.digest
    found = []
    for path in _package_folders():
        try:
            found.append(f"{path} {os.stat(path).st_mtime_ns}")
        except OSError:
            found.append(f"{path} -")
    return "\n".join(found)


@functools.cache
def _package_folders() -> tuple[str, ...]:
    import sysconfig

    return tuple(sorted({sysconfig.get_path(name) for name in ("purelib", "platlib")}))

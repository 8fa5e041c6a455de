"""`make(plan, image)`: one plan and one image become one bundle. A pure function.

It opens nothing and asks the machine nothing: equal arguments give equal bundles. What the plan
may say was decided in `policy`; here it is only translated into the words of the OCI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

from sandbox_kernel.bundle import defaults, oci, seccomp_profile, users
from sandbox_kernel.bundle.bundle import Bundle
from sandbox_kernel.errors import ImageError, InvalidOption
from sandbox_kernel.linux import capabilities

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandbox_kernel import policy
    from sandbox_kernel.linux.seccomp import Profile

CPU_PERIOD = 100_000  # microseconds, the kernel's own default


class Image(Protocol):
    """What is needed of an image; `image.Image` is one."""

    @property
    def reference(self) -> str:
        """As the caller wrote it."""

    @property
    def digest(self) -> str:
        """Of its content."""

    @property
    def layers(self) -> Sequence[object]:
        """Paths of the lower directories, lowest first."""

    @property
    def mounts(self) -> Sequence[Mapping[str, Any]]:
        """Read-only binds that it needs of this machine."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The OCI image configuration: Env, WorkingDir, User, Entrypoint, Cmd."""


def make(
    plan: policy.ContainerPlan,
    image: Image,
    *,
    command: Sequence[str] | None = None,
    accounts: users.Accounts | None = None,
) -> Bundle:
    """The bundle of a container. Raises InvalidOption or ImageError; starts nothing.

    `command` takes the place of the image's Cmd, as what follows the image in `docker run`.
    `accounts` are for runtimes that take numbers only; without them a name stays a name, which
    the embedded runtime looks up inside, in the image's own files.
    """
    user, home = users.resolve(plan.user or str(image.config.get("User") or "0"), accounts)
    held = capabilities_of(plan)
    linux: oci.Linux = {
        "namespaces": [
            {"type": kind}
            for kind in defaults.NAMESPACES
            if not (kind == "network" and _shares(plan.network))
        ],
        "resources": resources(plan),
        "maskedPaths": [
            *defaults.MASKED_PATHS,
            *(defaults.STRICT_MASKED_PATHS if plan.strict else ()),
        ],
        "readonlyPaths": list(defaults.READ_ONLY_PATHS),
        "rootfsPropagation": "private",
    }
    if (rules := profile(plan)) is not None:
        linux["seccomp"] = rules
    config: oci.Config = {
        "ociVersion": oci.VERSION,
        "root": {"path": "rootfs", "readonly": plan.read_only},
        "process": {
            "terminal": False,
            "user": user,
            "args": arguments(plan, image, command),
            "env": _environment(plan, image, home),
            "cwd": _working_directory(plan, image),
            "capabilities": {
                "bounding": held,
                "effective": held,
                "permitted": held,
                "inheritable": held,
                "ambient": held,
            },
            "rlimits": _rlimits(plan),
            "noNewPrivileges": True,
        },
        "hostname": plan.hostname or defaults.HOSTNAME,
        "mounts": _mounts(plan, image),
        "annotations": dict(plan.label),
        "linux": linux,
    }
    return Bundle(
        config=config,
        layers=tuple(str(layer) for layer in image.layers),
        storage_size=plan.storage_size,
        image=image.digest,
    )


def profile(plan: policy.ContainerPlan, also: Sequence[str] = ()) -> Profile | None:
    """The rules of its filter of system calls; None: it has none.

    `also`: calls of a process of ours (see `seccomp_profile.profile`).
    """
    if "seccomp=unconfined" in plan.security_opt:
        return None
    held = capabilities_of(plan)
    if not plan.packet_sockets:
        held = [name for name in held if name != "CAP_NET_RAW"]  # all that it opens are those
    return seccomp_profile.profile(
        held,
        also,
        families=_families(plan),
        strict=plan.strict,
        learnt=plan.seccomp_calls or None,
    )


def _families(plan: policy.ContainerPlan) -> tuple[int, ...]:
    """With `strict` those that its network has: ours are IPv4 (`network.answering`)."""
    if not plan.strict or _shares(plan.network):
        return seccomp_profile.FAMILIES
    if plan.network == "none":
        return (seccomp_profile.AF_UNIX,)
    return (seccomp_profile.AF_UNIX, seccomp_profile.AF_INET, seccomp_profile.AF_NETLINK)


def _shares(network: str) -> bool:
    """Whether the network is not the container's own."""
    return network == "host" or network.startswith("container:")


def is_connected(network: str) -> bool:
    """Whether the container has a network of its own with others in it."""
    return network != "none" and not _shares(network)


def files(plan: policy.ContainerPlan) -> list[dict[str, str]]:
    """Files of ours in a container that is in a network: whom it asks for names."""
    if not is_connected(plan.network):
        return []
    taken = {mount.target for mount in plan.mount}
    return [
        {"path": path, "text": text}
        for path, text in (("/etc/hosts", defaults.HOSTS), ("/etc/resolv.conf", defaults.RESOLVER))
        if path not in taken
    ]


def arguments(
    plan: policy.ContainerPlan, image: Image, command: Sequence[str] | None = None
) -> list[str]:
    """The argv by docker's rule: `--entrypoint` drops the image's Cmd, a command replaces it."""
    if plan.entrypoint is not None:
        return [plan.entrypoint, *(command or ())]
    first = [str(word) for word in image.config.get("Entrypoint") or ()]
    rest = command if command is not None else (image.config.get("Cmd") or ())
    return [*first, *(str(word) for word in rest)]


def capabilities_of(plan: policy.ContainerPlan) -> list[str]:
    """None but what was added. All five sets are this: no_new_privs keeps them from growing."""
    added: set[str] = set()
    for option, names in (("--cap-add", plan.cap_add), ("--cap-drop", plan.cap_drop)):
        for name in names:
            if name != "ALL" and name not in capabilities.NUMBERS:
                raise InvalidOption(option, name, "ALL, or a name of capabilities(7)")
            chosen = set(capabilities.NAMES) if name == "ALL" else {name}
            added = added | chosen if option == "--cap-add" else added - chosen
    return [name for name in capabilities.NAMES if name in added]


def _environment(plan: policy.ContainerPlan, image: Image, home: str | None) -> list[str]:
    values = dict(defaults.ENVIRONMENT)
    if home:
        values["HOME"] = home
    for item in image.config.get("Env") or ():
        name, equals, value = str(item).partition("=")
        if equals and name:
            values[name] = value
    values.update(plan.env)
    return [f"{name}={value}" for name, value in values.items()]


def _working_directory(plan: policy.ContainerPlan, image: Image) -> str:
    """A folder below /proc could be a descriptor that leads out of the container."""
    given = plan.workdir or image.config.get("WorkingDir") or defaults.WORKING_DIRECTORY
    path = str(given)
    allowed = "an absolute path without `..`, and not below /proc, /sys or /dev"
    fine = path.startswith("/") and ".." not in path.split("/") and "\0" not in path
    clean = "/" + "/".join(part for part in path.split("/") if part not in ("", "."))
    if fine and not _below(clean, (*defaults.KERNEL_TREES, "/dev")):
        return clean
    if plan.workdir:
        raise InvalidOption("--workdir", path, allowed)
    raise ImageError(f"use `WorkingDir` of `{image.reference}`: not {allowed}: give `--workdir`")


def _below(path: str, trees: Sequence[str]) -> bool:
    return any(path == tree or path.startswith(f"{tree}/") for tree in trees)


def _mounts(plan: policy.ContainerPlan, image: Image) -> list[oci.Mount]:
    """Kernel file systems, then the image's binds, then the plan's, parents before children."""
    if getattr(image, "bare", False):
        return []
    chosen = [_planned(mount, plan) for mount in plan.mount]
    chosen.sort(key=lambda mount: mount["destination"].count("/"))
    taken = {mount["destination"] for mount in chosen}
    of_image = [cast("oci.Mount", mount) for mount in image.mounts]
    basic = [*defaults.mounts(plan.memory, strict=plan.strict), *of_image]
    if _shares(plan.network):  # sysfs belongs to a network namespace, and this one is not ours
        basic = [defaults.NO_SYSFS if each["type"] == "sysfs" else each for each in basic]
    return [mount for mount in basic if mount["destination"] not in taken] + chosen


def _planned(mount: policy.Mount, plan: policy.ContainerPlan) -> oci.Mount:
    target = mount.target
    if target in ("/", "/dev") or _below(target, defaults.KERNEL_TREES):
        raise InvalidOption("--mount", target, "a target other than /, /dev, and below /proc, /sys")
    access = ["ro", "rro"] if mount.read_only else ["rw"]
    if plan.strict and not mount.read_only:
        access.append("noexec")  # what a cell wrote there it can't execute, nor map so
    if mount.type == "tmpfs":
        size = mount.size or plan.storage_size or plan.memory
        options = ["nosuid", "nodev", "mode=1777", *(word for word in access if word != "rro")]
        options += [f"size={size}"] if size else []
        return {"destination": target, "type": "tmpfs", "source": "tmpfs", "options": options}
    # rbind: the kernel refuses to uncover what a mount below the source hides.
    # idmap: whoever owns the folder outside is the container's root inside.
    options = ["rbind", "rprivate", "nosuid", "nodev", "idmap", *access]
    return {"destination": target, "type": "bind", "source": mount.source, "options": options}


def _rlimits(plan: policy.ContainerPlan) -> list[oci.Rlimit]:
    limits = dict(defaults.RLIMITS)
    limits |= {f"RLIMIT_{limit.name.upper()}": (limit.soft, limit.hard) for limit in plan.ulimit}
    return [{"type": kind, "soft": soft, "hard": hard} for kind, (soft, hard) in limits.items()]


def resources(plan: policy.ContainerPlan) -> oci.Resources:
    """The limits of a plan in the words of the OCI; those it does not have are left out."""
    memory: oci.Memory = {}
    if plan.memory is not None:
        memory["limit"] = plan.memory
    if plan.memory_swap is not None:
        memory["swap"] = plan.memory_swap
    cpu: oci.Cpu = {}
    if plan.cpu_shares is not None:
        cpu["shares"] = plan.cpu_shares
    if plan.cpus is not None:
        cpu["quota"] = round(plan.cpus * CPU_PERIOD)
        cpu["period"] = CPU_PERIOD
    if plan.cpuset_cpus is not None:
        cpu["cpus"] = plan.cpuset_cpus
    block: oci.BlockIO = {}
    if plan.device_read_bps:
        block["throttleReadBpsDevice"] = [_rate(device) for device in plan.device_read_bps]
    if plan.device_write_bps:
        block["throttleWriteBpsDevice"] = [_rate(device) for device in plan.device_write_bps]
    found: oci.Resources = {}
    if memory:
        found["memory"] = memory
    if cpu:
        found["cpu"] = cpu
    if plan.pids_limit is not None:
        found["pids"] = {"limit": plan.pids_limit}
    if block:
        found["blockIO"] = block
    return found


def _rate(device: policy.DeviceRate) -> oci.ThrottleDevice:
    return {"major": device.major, "minor": device.minor, "rate": device.rate}

"""config.json, read strictly: what can't be put in force is refused before anything is made."""

from __future__ import annotations

import os

from sandbox_kernel import plain_json
from sandbox_kernel.linux import capabilities, processes
from sandbox_kernel.oci.faults import StepFailed, wrong

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

VERSION = "1.2.0"
LARGEST = 16 << 20
OF_LINUX = frozenset(
    ("namespaces", "uidMappings", "gidMappings", "timeOffsets", "devices", "cgroupsPath",
     "resources", "rootfsPropagation", "seccomp", "sysctl", "maskedPaths", "readonlyPaths",
     "mountLabel", "personality")
)  # fmt: skip
OF_RESOURCES = frozenset(
    ("devices", "memory", "cpu", "pids", "hugepageLimits", "blockIO", "network", "rdma", "unified")
)
SELINUX = "/sys/fs/selinux/enforce"
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")


def load(bundle: str) -> dict[str, Any]:
    """The configuration of a bundle. Raises StepFailed, InvalidOption."""
    path = f"{bundle}/config.json"
    try:
        with open(path, "rb") as file:
            found = plain_json.read(file.read(LARGEST))
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise StepFailed("read", path, why, error.errno or 0) from error
    except (ValueError, RecursionError) as error:
        raise StepFailed("read", path, f"it is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise wrong("document", type(found).__name__, "an object")
    _check(found)
    return found


def _check(config: Mapping[str, Any]) -> None:
    version = str(config.get("ociVersion", ""))
    if not version.startswith("1."):
        raise wrong("ociVersion", version, f"1.0.0 to {VERSION}")
    for name in ("windows", "solaris", "vm", "zos", "freebsd"):
        if config.get(name):
            raise wrong(name, "given", "nothing: this is a runtime for Linux")
    root = _object(config, "root", needed=True)
    if not isinstance(root.get("path"), str) or not root["path"]:
        raise wrong("root.path", root.get("path"), "the path of a folder")
    for index, mount in enumerate(_list(config, "mounts")):
        if not str(mount.get("destination", "")):
            raise wrong(f"mounts[{index}].destination", mount, "a path inside")
    if "process" in config:
        check_process(_object(config, "process", needed=True))
    hooks = _object(config, "hooks")
    for kind in HOOKS:
        for hook in _list(hooks, kind):
            if not str(hook.get("path", "")).startswith("/"):
                raise wrong(f"hooks.{kind}.path", hook.get("path"), "an absolute path")
    _check_linux(config, _object(config, "linux"))


def _check_linux(config: Mapping[str, Any], linux: Mapping[str, Any]) -> None:
    for name in set(linux) - OF_LINUX:
        if linux[name]:
            raise wrong(f"linux.{name}", "given", "what this runtime can put in force")
    kinds = [str(entry.get("type")) for entry in _list(linux, "namespaces")]
    for kind in kinds:
        if kind not in processes.FLAG_OF_NAMESPACE:
            known = ", ".join(processes.FLAG_OF_NAMESPACE)
            raise wrong("linux.namespaces.type", kind, f"one of {known}")
        if kinds.count(kind) > 1:
            raise wrong("linux.namespaces.type", kind, "each type once")
    for entry in _list(linux, "namespaces"):
        path = entry.get("path")
        if path and not (isinstance(path, str) and os.path.exists(path)):
            raise wrong("linux.namespaces.path", path, "a namespace that is there")
    for field, kind, value in (
        ("linux.uidMappings", "user", linux.get("uidMappings")),
        ("linux.timeOffsets", "time", linux.get("timeOffsets")),
        ("hostname", "uts", config.get("hostname")),
        ("domainname", "uts", config.get("domainname")),
    ):
        if value and kind not in kinds:
            raise wrong(field, value, f"a namespace of type `{kind}` beside it")
    if linux.get("mountLabel") and not os.path.exists(SELINUX):
        raise wrong("linux.mountLabel", linux["mountLabel"], "nothing: SELinux is not on")
    check_resources(_object(linux, "resources"))
    for name in _object(linux, "sysctl"):
        _check_sysctl(name, set(kinds))


def check_resources(resources: Mapping[str, Any]) -> None:
    """The `resources` object, of the configuration or of `update`. Raises InvalidOption."""
    for name in set(resources) - OF_RESOURCES:
        if resources[name]:
            raise wrong(f"linux.resources.{name}", "given", "what this runtime can put in force")
    if _object(resources, "blockIO").get("leafWeight"):
        allowed = "nothing: Linux has none since 5.0"
        raise wrong("linux.resources.blockIO.leafWeight", "given", allowed)


def _check_sysctl(name: str, namespaces: set[str]) -> None:
    """Only what is the container's own; others would change the machine."""
    key = name.replace("/", ".")
    if {"", ".", ".."} & set(name.split("/" if "/" in name else ".")):
        raise wrong("linux.sysctl", name, "a name with no empty part and no `..`")
    ipc = ("kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue.")
    if key.startswith("net.") and "network" in namespaces:
        return
    if key.startswith(ipc) and "ipc" in namespaces:
        return
    if key == "kernel.domainname" and "uts" in namespaces:
        return
    raise wrong("linux.sysctl", name, "one of a namespace that the container has for itself")


def check_process(process: Mapping[str, Any]) -> None:
    """The `process` object, of the configuration or of `exec --process`. Raises InvalidOption."""
    arguments = process.get("args")
    if not isinstance(arguments, list) or not arguments or not all(
        isinstance(word, str) for word in arguments
    ):  # fmt: skip
        raise wrong("process.args", arguments, "at least one word")
    if not str(process.get("cwd", "")).startswith("/"):
        raise wrong("process.cwd", process.get("cwd"), "an absolute path")
    for name, held in _object(process, "capabilities").items():
        if name not in SETS:
            raise wrong(f"process.capabilities.{name}", "given", f"one of {', '.join(SETS)}")
        if not isinstance(held, list | None):
            raise wrong(f"process.capabilities.{name}", held, "a list of names")
        for each in held or ():
            if not isinstance(each, str) or each not in capabilities.NUMBERS:
                raise wrong(f"process.capabilities.{name}", each, "a name of capabilities(7)")
    seen = set()
    for limit in _list(process, "rlimits"):
        kind = limit.get("type")
        if not isinstance(kind, str) or kind in seen:
            raise wrong("process.rlimits.type", kind, "a name, and each once")
        seen.add(kind)


def _object(parent: Mapping[str, Any], name: str, *, needed: bool = False) -> Mapping[str, Any]:
    value = parent.get(name)
    if value is None and not needed:
        return {}
    if not isinstance(value, dict):
        raise wrong(name, value, "an object")
    return value


def _list(parent: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    value = parent.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise wrong(name, value, "a list of objects")
    return value

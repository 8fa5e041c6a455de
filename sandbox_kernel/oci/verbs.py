"""The verbs of the command line, each a function of the root folder and its words."""

from __future__ import annotations

import _signal as signal  # `signal` is the same with enumerations around it, slow to import
import os
import sys
import time

from sandbox_kernel import plain_json
from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.linux import processes
from sandbox_kernel.oci import document, state, words
from sandbox_kernel.oci.faults import StepFailed, doing
from sandbox_kernel.oci.groups import Group

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from typing import Any

    from sandbox_kernel.oci.creating import Wish
    from sandbox_kernel.oci.foreground import Foreground

# What other runtimes take and we have no use for: it asks for nothing that we would leave out.
IDLE = ("no-pivot!", "no-new-keyring!", "no-subreaper!", "keep!")
OF_CREATE = words.table(
    ("bundle", "console-socket", "pid-file", "preserve-fds", "detach!", *IDLE), b="bundle",
    d="detach",
)  # fmt: skip
OF_EXEC = words.table(
    ("console-socket", "pid-file", "preserve-fds", "detach!", "process", "cwd", "env", "tty!",
     "user", "additional-gids", "cap", "no-new-privs!", "apparmor", "process-label",
     "ignore-paused!", "no-subreaper!", "cgroup"),
    d="detach", p="process", e="env", t="tty", u="user", g="additional_gids", c="cap",
)  # fmt: skip
OF_UPDATE = {
    "memory": ("memory", "limit"), "memory-swap": ("memory", "swap"),
    "memory-reservation": ("memory", "reservation"), "kernel-memory": ("memory", "kernel"),
    "cpu-share": ("cpu", "shares"), "cpu-quota": ("cpu", "quota"),
    "cpu-period": ("cpu", "period"), "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpu-rt-period": ("cpu", "realtimePeriod"), "cpuset-cpus": ("cpu", "cpus"),
    "cpuset-mems": ("cpu", "mems"), "pids-limit": ("pids", "limit"),
    "blkio-weight": ("blockIO", "weight"),
}  # fmt: skip
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1,
             signal.SIGUSR2, signal.SIGCONT)  # fmt: skip
STOPPED_SECONDS = 10.0


def _one(rest: Sequence[str], usage: str) -> str:
    if len(rest) != 1:
        raise InvalidOption("arguments", " ".join(rest) or "nothing", usage)
    return rest[0]


def _wish(root: str, options: words.Found, name: str) -> Wish:
    from sandbox_kernel.oci.creating import Wish

    preserved = words.number(options, "preserve-fds") or 0
    for descriptor in range(3, 3 + preserved):
        try:
            os.fstat(descriptor)
        except OSError:  # else one of ours would have its number by then (CVE-2024-21626)
            allowed = "descriptors that are open, from 3 on"
            raise InvalidOption("--preserve-fds", preserved, allowed) from None
    return Wish(
        root=root,
        name=name,
        bundle=words.last(options, "bundle") or ".",
        console_socket=words.last(options, "console-socket"),
        pid_file=words.last(options, "pid-file"),
        preserved=preserved,
    )


def create(root: str, given: Sequence[str]) -> int:
    """`create [--bundle DIR] [--pid-file FILE] [--console-socket PATH] ID`"""
    from sandbox_kernel.oci import creating

    options, rest = words.split(given, OF_CREATE, more=True)
    wish = _wish(root, options, _one(rest, "create [--bundle DIR] ID"))
    config = document.load(wish.bundle)
    terminal = (config.get("process") or {}).get("terminal")
    if terminal and not wish.console_socket:
        allowed = "a socket, since `process.terminal` is set"
        raise InvalidOption("--console-socket", "nothing", allowed)
    if wish.console_socket and not terminal:
        allowed = "nothing, since `process.terminal` is not set"
        raise InvalidOption("--console-socket", wish.console_socket, allowed)
    creating.create(wish, config)
    return 0


def start(root: str, given: Sequence[str]) -> int:
    """`start ID`"""
    from sandbox_kernel.linux import messages
    from sandbox_kernel.oci import creating, hooks

    _, rest = words.split(given, {}, more=True)
    name = _one(rest, "start ID")
    folder = state.Folder.find(root, name)
    try:
        known = folder.read()
        status = state.status(folder, known, paused=False)
        if status != "created":
            raise StepFailed("start", name, f"it is {status}, and not created", 22)
        config = document.load(known["bundle"])
        with doing("start", name):
            channel = creating.connect(folder)
            messages.send(channel, {"do": "start"})
        os.unlink(f"{folder.path}/{state.SOCKET}")
        try:
            shown = creating.spoken(known, "created")
            creating.wait_executed(channel, config, shown, known["pid"])
            hooks.run(config, "poststart", creating.spoken(known, "running"))
        except StepFailed:
            if state.lives(known):
                os.kill(known["pid"], signal.SIGKILL)
            raise
        finally:
            channel.close()
    finally:
        folder.close()
    return 0


def run(root: str, given: Sequence[str]) -> int:
    """`run [--bundle DIR] [--detach] [--pid-file FILE] ID`"""
    from sandbox_kernel.oci import creating

    options, rest = words.split(given, OF_CREATE, more=True)
    wish = _wish(root, options, _one(rest, "run [--bundle DIR] ID"))
    detached = words.switched(options, "detach")
    config = document.load(wish.bundle)
    terminal = bool((config.get("process") or {}).get("terminal"))
    if terminal and not wish.console_socket and detached:
        allowed = "a socket, since `process.terminal` is set"
        raise InvalidOption("--console-socket", "nothing", allowed)
    with _shown(wish, terminal=terminal) as shown:
        pid = creating.create(wish, config, started=True)
        if detached:
            return 0
        status = shown.wait(pid, PASSED_ON)
    _delete(root, wish.name, forced=True, config=config)
    return status


def _shown(wish: Wish, *, terminal: bool) -> AbstractContextManager[Foreground]:
    """What the program is shown on: our terminal, when it has one that nobody else takes."""
    if terminal and not wish.console_socket:
        from sandbox_kernel.oci import terminals

        return terminals.offered(wish)
    from sandbox_kernel.oci.foreground import Foreground

    return Foreground()


def execute(root: str, given: Sequence[str]) -> int:
    """`exec [options] ID COMMAND...` or `exec --process FILE ID`"""
    from sandbox_kernel.oci import joining

    options, rest = words.split(given, OF_EXEC, more=False)
    if not rest:
        raise InvalidOption("arguments", "nothing", "exec [options] ID COMMAND...")
    name, *arguments = rest
    arguments = arguments[1:] if arguments[:1] == ["--"] else arguments
    folder = state.Folder.find(root, name, locked=False)
    known = folder.read()
    group = Group(known["groups"])
    if group.is_frozen() and not words.switched(options, "ignore-paused"):
        raise StepFailed("exec in", name, "it is paused: resume it first", 16)
    config = document.load(known["bundle"])
    wish = _wish(root, {**options, "bundle": [known["bundle"]]}, name)
    changes: dict[str, Any] = {
        "env": options.get("env", []),
        "capabilities": options.get("cap", []),
        "terminal": words.switched(options, "tty"),
    }
    for key, option in (
        ("cwd", "cwd"), ("user", "user"), ("apparmorProfile", "apparmor"),
        ("selinuxLabel", "process-label"),
    ):  # fmt: skip
        if text := words.last(options, option):
            changes[key] = text
    if words.switched(options, "no-new-privs"):
        changes["noNewPrivileges"] = True
    process = joining.process_of(config, words.last(options, "process"), arguments, changes)
    for group_id in options.get("additional-gids", ()):
        groups = process.setdefault("user", {}).setdefault("additionalGids", [])
        groups.append(int(group_id))
    detached = words.switched(options, "detach")
    with _shown(wish, terminal=bool(process.get("terminal"))) as shown:
        pid = joining.start(wish, known, config, process)
        return 0 if detached else shown.wait(pid, PASSED_ON)


def tell_state(root: str, given: Sequence[str]) -> int:
    """`state ID`"""
    _, rest = words.split(given, {}, more=True)
    folder = state.Folder.find(root, _one(rest, "state ID"), locked=False)
    known = folder.read()
    told = _told(folder, known)
    import json  # for its indentation

    print(json.dumps(told, indent=2))
    return 0


def _told(folder: state.Folder, known: dict[str, Any]) -> dict[str, Any]:
    paused = Group(known["groups"]).is_frozen()
    status = state.status(folder, known, paused=paused)
    told = {name: known[name] for name in ("ociVersion", "id")}
    told["status"] = status
    told["pid"] = 0 if status == "stopped" else known["pid"]
    told.update({name: known[name] for name in ("bundle", "rootfs", "annotations")})
    return {**told, "created": _moment(known["created"]), "owner": str(known["owner"])}


def _moment(seconds: float) -> str:
    return (
        time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1e6):06}Z"
    )


def kill(root: str, given: Sequence[str]) -> int:
    """`kill [--all] ID [SIGNAL]`"""
    options, rest = words.split(given, words.table(("all!",), a="all"), more=True)
    if not 1 <= len(rest) <= 2:
        raise InvalidOption("arguments", " ".join(rest) or "nothing", "kill ID [SIGNAL]")
    number = signal_number(rest[1] if len(rest) > 1 else "SIGTERM")
    folder = state.Folder.find(root, rest[0], locked=False)
    known = folder.read()
    group = Group(known["groups"])
    if words.switched(options, "all"):
        from sandbox_kernel.oci import members

        members.send(known, number)
        return 0
    if not state.lives(known):
        raise StepFailed("kill", rest[0], "container not running", 3)
    pidfd = processes.pidfd_open(known["pid"])
    try:
        if state.lives(known):  # now that it can be no other
            processes.send_signal(pidfd, number)
    finally:
        os.close(pidfd)
    if number == signal.SIGKILL and group.is_frozen():
        group.freeze(False)
    return 0


def signal_number(text: str) -> int:
    """9, KILL or SIGKILL. Raises InvalidOption."""
    if text.isdigit() and 0 <= int(text) <= signal.NSIG:
        return int(text)
    name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    number = getattr(signal, name, None) if "_" not in name else None  # not SIG_BLOCK
    if not isinstance(number, int):
        raise InvalidOption("SIGNAL", text, "a name or number of signal(7)")
    return number


def delete(root: str, given: Sequence[str]) -> int:
    """`delete [--force] ID`"""
    options, rest = words.split(given, words.table(("force!",), f="force"), more=True)
    forced = words.switched(options, "force")
    name = _one(rest, "delete [--force] ID")
    if forced and name not in state.names(root):
        return 0
    _delete(root, name, forced=forced)
    return 0


def _delete(root: str, name: str, *, forced: bool, config: Mapping[str, Any] | None = None) -> None:
    """Remove a container; `config` if the caller has it, whose last hooks are run."""
    from sandbox_kernel.oci import creating, hooks

    folder = state.Folder.find(root, name)
    try:
        known = folder.read()
    except StepFailed:
        if forced:
            folder.remove()  # a create that was killed got no further
            return
        raise
    status = state.status(folder, known, paused=False)
    if status not in ("stopped", "created") and not forced:
        raise StepFailed("delete", name, f"it is {status}: kill it first, or use --force", 16)
    group = Group(known["groups"])
    if state.lives(known):
        pidfd = processes.pidfd_open(known["pid"])
        if state.lives(known):
            processes.send_signal(pidfd, signal.SIGKILL)
            if group.is_frozen():
                group.freeze(False)
            processes.wait_ended(pidfd)
        os.close(pidfd)
    group.kill()
    group.remove()
    try:
        config = config or document.load(known["bundle"])
    except (StepFailed, InvalidOption):
        config = {}  # the bundle is gone already, and its hooks with it
    folder.remove()
    try:
        hooks.run(config, "poststop", creating.spoken(known, "stopped"))
    except StepFailed as error:
        sys.stderr.write(f"warning: {error}\n")  # the specification: log it, and go on


def list_all(root: str, given: Sequence[str]) -> int:
    """`list [--format json|table] [--quiet]`"""
    takes = words.table(("format", "quiet!"), f="format", q="quiet")
    options, _ = words.split(given, takes, more=True)
    rows = []
    for name in state.names(root):
        folder = state.Folder(root, name)
        try:
            known = folder.read()
        except StepFailed:
            continue  # it is just being made
        rows.append(_told(folder, known))
    if words.switched(options, "quiet"):
        print("".join(f"{row['id']}\n" for row in rows), end="")
    elif words.last(options, "format") == "json":
        print(plain_json.written(rows))
    else:
        print(f"{'ID':<24}{'PID':<10}{'STATUS':<10}{'BUNDLE':<40}CREATED")
        for row in rows:
            print("{id:<24}{pid:<10}{status:<10}{bundle:<40}{created}".format(**row))
    return 0


def tell_processes(root: str, given: Sequence[str]) -> int:
    """`ps [--format json|table] ID`"""
    from sandbox_kernel.oci import members

    options, rest = words.split(given, words.table(("format",), f="format"), more=False)
    if not rest:
        raise InvalidOption("arguments", "nothing", "ps [--format json] ID")
    folder = state.Folder.find(root, rest[0], locked=False)
    pids = members.found(folder.read())
    if words.last(options, "format") == "json":
        print(plain_json.written(pids))
        return 0
    print(f"{'UID':<8}{'PID':<8}{'PPID':<8}CMD")
    for pid in pids:
        try:
            uid = os.stat(f"/proc/{pid}").st_uid
            with open(f"/proc/{pid}/stat", "rb") as file:
                parent = int(file.read().rpartition(b") ")[2].split()[1])
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                command = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        print(f"{uid:<8}{pid:<8}{parent:<8}{command}")
    return 0


def update(root: str, given: Sequence[str]) -> int:
    """`update [--resources FILE] [--memory N ...] ID`"""
    takes = words.table(("resources", *OF_UPDATE), r="resources")
    options, rest = words.split(given, takes, more=True)
    folder = state.Folder.find(root, _one(rest, "update [options] ID"))
    resources: dict[str, Any] = {}
    if source := words.last(options, "resources"):
        with doing("read", source):
            try:
                if source == "-":
                    resources = plain_json.read(sys.stdin.read())
                else:
                    with open(source, "rb") as file:
                        resources = plain_json.read(file.read())
            except ValueError as error:
                raise StepFailed("read", source, f"it is no JSON: {error}") from error
    for name, (part, field) in OF_UPDATE.items():
        text = words.last(options, name)
        if text is not None:
            value = text if field in ("cpus", "mems") else words.number(options, name)
            resources.setdefault(part, {})[field] = value
    document.check_resources(resources)
    known = folder.read()
    if not state.lives(known):
        raise StepFailed("update", folder.name, "container not running", 3)
    Group(known["groups"]).update(resources)
    return 0


def pause(root: str, given: Sequence[str]) -> int:
    """`pause ID`"""
    return _freeze(root, given, wanted=True)


def resume(root: str, given: Sequence[str]) -> int:
    """`resume ID`"""
    return _freeze(root, given, wanted=False)


def _freeze(root: str, given: Sequence[str], *, wanted: bool) -> int:
    _, rest = words.split(given, {}, more=True)
    verb = "pause" if wanted else "resume"
    folder = state.Folder.find(root, _one(rest, f"{verb} ID"))
    known = folder.read()
    group = Group(known["groups"])
    status = state.status(folder, known, paused=group.is_frozen())
    if status not in (("running", "created") if wanted else ("paused",)):
        raise StepFailed(verb, folder.name, f"it is {status}", 22)
    group.freeze(wanted)
    return 0


def events(root: str, given: Sequence[str]) -> int:
    """`events [--stats] [--interval 5s] ID`"""
    from sandbox_kernel.oci import use

    takes = words.table(("stats!", "interval"))
    options, rest = words.split(given, takes, more=True)
    folder = state.Folder.find(root, _one(rest, "events [--stats] ID"), locked=False)
    known = folder.read()
    if not state.lives(known):
        raise StepFailed("watch", folder.name, "container not running", 3)
    once = words.switched(options, "stats")
    use.tell(known, once=once, interval=words.last(options, "interval") or "5s")
    return 0


def tell_features(root: str, given: Sequence[str]) -> int:
    """`features`"""
    import json

    from sandbox_kernel.oci import features

    print(json.dumps(features.features(), indent=2))
    return 0


def write_specification(root: str, given: Sequence[str]) -> int:
    """`spec [--bundle DIR] [--rootless]`"""
    import json

    from sandbox_kernel.oci import features

    options, _ = words.split(given, words.table(("bundle", "rootless!"), b="bundle"), more=True)
    path = os.path.join(words.last(options, "bundle") or ".", "config.json")
    own = (os.geteuid(), os.getegid()) if words.switched(options, "rootless") else None
    try:
        with open(path, "x", encoding="utf-8") as file:
            json.dump(features.specification(rootless=own), file, indent=2)
            file.write("\n")
    except FileExistsError:
        raise StepFailed("write", path, "it is there already: remove it first", 17) from None
    return 0


VERBS: dict[str, Callable[[str, Sequence[str]], int]] = {
    "create": create,
    "start": start,
    "run": run,
    "state": tell_state,
    "kill": kill,
    "delete": delete,
    "exec": execute,
    "list": list_all,
    "ps": tell_processes,
    "update": update,
    "pause": pause,
    "resume": resume,
    "events": events,
    "features": tell_features,
    "spec": write_specification,
}

"""`sandbox-kernel doctor`: what this machine can do, tried for real, and how to mend the rest."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from sandbox_kernel.arguments import Parsed
from sandbox_kernel.cli import output, probes
from sandbox_kernel.cli.verb import FORMAT, Verb
from sandbox_kernel.errors import SandboxError
from sandbox_kernel.settings import OPTIONS

HELPER_FOLDERS = ("/usr/bin", "/bin", "/usr/local/bin")
PROBE_SECONDS = 20
# Switches that forbid user namespaces: file below /proc/sys, the value that forbids, a value that
# does not.
SWITCHES = (
    ("user/max_user_namespaces", "0", "15000"),
    ("kernel/unprivileged_userns_clone", "0", "1"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
)


class Check(NamedTuple):
    """One finding. `state`: good, weak (works, with less) or bad (nothing can start)."""

    name: str
    state: str
    found: str
    means: str
    mend: str = ""


def doctor(found: Parsed) -> int:
    """Prints every check; 1 if one is bad."""
    with output.progress("trying what this machine can do"):
        checks = list(examine())
    if found.own.get("format") == "json":
        output.data([check._asdict() for check in checks])
    else:
        for check in checks:
            mark = {"good": "ok  ", "weak": "weak", "bad": "BAD "}[check.state]
            print(f"{mark}  {check.name}: {check.found}")
            if check.state != "good":
                print(f"      means: {check.means}")
                print("      mend:  " + check.mend.replace("\n", "\n" + " " * 13))
    return 1 if any(check.state == "bad" for check in checks) else 0


def examine() -> Iterator[Check]:
    """All checks, cheapest and most needed first."""
    yield _kernel_calls()
    yield from _switches()
    yield from _namespaces()
    yield _ids()
    yield _overlay()
    yield _seccomp()
    yield _landlock()
    yield from _groups()
    yield _networks()
    yield from _walls()
    yield from _kept()
    yield _settings()
    yield from _jupyter()


def probe(name: str) -> dict[str, Any]:
    """The answer of one probe, which ran in a process of its own."""
    argv = [sys.executable, "-I", "-S", probes.__file__, name]
    try:
        done = subprocess.run(
            argv, capture_output=True, timeout=PROBE_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
        answer: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        return {"ok": False, "found": f"the probe ended badly: {error}", "errno": 0}
    return answer


def _kernel_calls() -> Check:
    answer = probe("calls")
    if answer["ok"]:
        return Check("system calls", "good", answer["found"], "everything stands on these")
    return Check("system calls", "bad", answer["found"], "no container can be made",
        "use Linux 5.6 or later, and allow openat2 and pidfd_open if a container is around this"
        " process")  # fmt: skip


def _switches() -> Iterator[Check]:
    for name, forbids, allows in SWITCHES:
        try:
            with open(f"/proc/sys/{name}", encoding="ascii") as file:
                value = file.read().strip()
        except OSError:
            continue
        dotted = name.replace("/", ".")
        if value != forbids:
            yield Check(dotted, "good", value, "does not forbid user namespaces")
        elif os.getuid() == 0 and name.startswith("kernel/"):
            yield Check(dotted, "weak", value, "ordinary users can't make containers here",
                f"sysctl -w {dotted}={allows}")  # fmt: skip
        else:
            yield Check(dotted, "bad", value, "user namespaces are switched off: nothing can start",
                f"as root: sysctl -w {dotted}={allows}")  # fmt: skip


def _namespaces() -> Iterator[Check]:
    for name in probes.NAMESPACES:
        answer = probe(f"ns:{name}")
        if answer["ok"]:
            yield Check(f"namespace {name}", "good", answer["found"], "containers have their own")
        elif name in ("time", "cgroup"):
            yield Check(f"namespace {name}", "weak", answer["found"],
                f"containers see the {name} of the host", "use Linux 5.6 or later")  # fmt: skip
        else:
            yield Check(f"namespace {name}", "bad", answer["found"], "nothing can start",
                "turn the switches above, or leave the container or service around this process,"
                " which may forbid it")  # fmt: skip


def _ids() -> Check:
    if os.getuid() == 0:
        answer = probe("id_range")
        if answer["ok"]:
            return Check("user ids", "good", answer["found"], "each container has its own range")
        return Check("user ids", "bad", answer["found"], "a container can't get ids of its own",
            "run outside the container or service around this process")  # fmt: skip
    user = _user_name()
    missing = [name for name in ("newuidmap", "newgidmap") if not _helper(name)]
    ranges = [_subordinate(f"/etc/{name}", user) for name in ("subuid", "subgid")]
    one_id = "a container has one user id: programs that change their user fail"
    if missing:
        return Check("user ids", "weak", f"no {' and no '.join(missing)}", one_id,
            "as root: apt-get install uidmap")  # fmt: skip
    if not all(ranges):
        return Check("user ids", "weak", f"no range for `{user}` in /etc/subuid and /etc/subgid",
            one_id, f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 "
            f"{user}")  # fmt: skip
    return Check("user ids", "good", f"{ranges[0]} by newuidmap", "containers have many users")


def _overlay() -> Check:
    answer = probe("overlay")
    if answer["ok"]:
        return Check("overlay", "good", answer["found"], "a writable layer costs nothing")
    return Check("overlay", "bad", answer["found"], "a container can't have a writable layer",
        "use Linux 5.11 or later with overlayfs (`modprobe overlay`)")  # fmt: skip


def _seccomp() -> Check:
    answer = probe("seccomp")
    if answer["ok"]:
        return Check("seccomp", "good", answer["found"], "system calls are filtered")
    return Check("seccomp", "bad", answer["found"], "no filter, so nothing starts",
        "use a kernel with CONFIG_SECCOMP_FILTER")  # fmt: skip


def _landlock() -> Check:
    answer = probe("landlock")
    if answer["ok"]:
        return Check("landlock", "good", answer["found"], "`--strict` can be had")
    return Check("landlock", "weak", answer["found"], "`--strict` is refused",
        "boot with lsm=landlock,... on Linux 5.13 or later")  # fmt: skip


def _groups() -> Iterator[Check]:
    from sandbox_kernel.runtime import client

    try:
        about = client.shared().about  # found by the process that would have to hold them
        support = about["support"]
    except (OSError, SandboxError) as error:
        yield Check("control groups", "weak", str(error), "no limit can be held", "see the text")
        return
    held = [limit for limit, why in support.items() if not why]
    if held:
        yield Check(
            "control groups", "good", f"{about['driver']}: {', '.join(held)}", "limits hold"
        )
    for what in about["left"]:
        yield Check("control groups", "weak", what, "a container that ended holds its memory",
            "end what it waits for, a debugger or a disk, or start the host anew")  # fmt: skip
    together: dict[str, list[str]] = {}
    reasons: dict[str, list[str]] = {}
    for limit, why in support.items():
        if why:
            reason, _, mend = why.rpartition(": ")
            together.setdefault(mend, []).append(limit)
            reasons.setdefault(mend, []).append(reason)
    for mend, limits in together.items():
        refused = [OPTIONS[limit].flags[0] for limit in limits if limit in OPTIONS]
        means = [f"refused when asked for: {', '.join(refused)}"] if refused else []
        means += ["what a cell used is not counted"] if "usage" in limits else []
        found = "; ".join(dict.fromkeys(reasons[mend]))
        yield Check(
            f"limits {', '.join(limits)}", "weak", found, "; ".join(means), _hand_over(mend)
        )


def _hand_over(mend: str) -> str:
    """The remedy, with the commands for root where it is to hand over a subtree."""
    from sandbox_kernel.runtime.cgroups import delegation
    from sandbox_kernel.runtime.cgroups.contract import HAND_OVER

    if not mend.endswith(HAND_OVER):
        return mend
    try:
        lines = delegation.commands(_user_name())
    except KeyError:
        return "make an entry for this user in /etc/passwd, then ask again"
    return "\n".join([mend.replace(HAND_OVER, "as root:"), *lines])


def _networks() -> Check:
    """Tried by the process that holds networks: it needs bridges, rules and their log."""
    from sandbox_kernel.network import client, pasta

    lacks = "only `--network none` and `host` can be had"
    try:
        with client.Holder.start() as holder:
            found = f"networks between containers, in {holder.about['range']}"
        client.stop()
    except (SandboxError, OSError) as error:
        return Check("networks", "weak", str(error), lacks,
            "use a kernel with bridge, veth and nf_tables")  # fmt: skip
    if os.getuid() == 0 or (way := pasta.find()):
        out = "by address translation" if os.getuid() == 0 else f"through {way}"
        return Check("networks", "good", f"{found}; a way out {out}", "`--network` can be had")
    return Check("networks", "weak", f"{found}; no `pasta` in /usr/bin", "`--network bridge` and "
        "`--allow` are refused", "as root: apt-get install passt")  # fmt: skip


def _walls() -> Iterator[Check]:
    """Each runtime of others that is here makes a container for real."""
    from sandbox_kernel import policy, settings
    from sandbox_kernel.container import Container, ProcessSpec
    from sandbox_kernel.runtime import walls

    for name, why in walls.found().items():
        if name == "embedded":
            continue
        asked = f"`--runtime {name}`"
        mend = why.rpartition(": ")[2]
        if why:
            yield Check(f"runtime {name}", "weak", why.partition(": ")[2].rpartition(": ")[0],
                f"{asked} is refused; others work", mend)  # fmt: skip
            continue
        try:
            plan = policy.plan(settings.COMMAND_LINE, image="host", runtime=name)
            with Container.create(plan, process=ProcessSpec(argv=("/bin/true",))) as made:
                assert made.process is not None
                ended = made.process.wait(PROBE_SECONDS)
            problem = ended.message or (f"status {ended.status}" if ended.status else "")
        except (OSError, SandboxError) as error:
            problem = str(error)
        if problem:
            yield Check(f"runtime {name}", "weak", problem, f"{asked} fails so; others work",
                "see the text, which is the runtime's own")  # fmt: skip
        else:
            yield Check(f"runtime {name}", "good", f"{walls.find(name)} made a container",
                f"{asked} can be had")  # fmt: skip


def _kept() -> Iterator[Check]:
    """What a program and the warm holder keep ready, and how much that may become."""
    from sandbox_kernel import observe

    kept: list[tuple[str, observe.Kept | None]] = []
    try:
        kept = [
            ("ready cells", observe.by_this_program()), ("warm holder", observe.by_the_holder())
        ]  # fmt: skip
    except (SandboxError, OSError) as error:
        yield Check("ready cells", "bad", str(error), "nothing can start",
            "mend what is bad above")  # fmt: skip
    for name, found in kept:
        if found is None:
            yield Check(name, "good", "none: the first kernel starts one", "each kernel starts cold"
                " until then")  # fmt: skip
            continue
        yield Check(name, "good",
            f"{found.ready} now, at most {found.most_ready} of a kind, from {found.most_templates} "
            f"templates; dropped after {found.ready_seconds:g} s without use, templates after "
            f"{found.template_seconds:g} s, and all of it when less than "
            f"{found.least_available:.0%} of the memory is available",
            "a cell or kernel that finds one ready starts at once")  # fmt: skip


def _settings() -> Check:
    from sandbox_kernel import settings

    try:
        now = settings.load()
    except (SandboxError, OSError) as error:
        return Check("settings", "bad", str(error), "nothing starts before this is mended",
            "correct the file that is named")  # fmt: skip
    files = [layer.source for layer in now.layers] or ["no files, built-in defaults"]
    return Check("settings", "good", ", ".join(files), "read in this order")


def _jupyter() -> Iterator[Check]:
    try:
        from jupyter_client._version import __version__ as version

        from sandbox_kernel.cli import kernelspecs

        found = kernelspecs.ours()
    except ImportError as error:
        yield Check("jupyter", "weak", str(error), "no kernels; the command works",
            "pip install jupyter_client")  # fmt: skip
        return
    yield Check("jupyter", "good", f"jupyter_client {version}", "starts kernels")
    if not found:
        yield Check("kernelspecs", "weak", "none", "Jupyter does not offer a sandbox kernel",
            "sandbox-kernel install")  # fmt: skip
    for name, folder in found.items():
        with open(os.path.join(folder, "kernel.json"), encoding="utf-8") as file:
            python = json.load(file)["argv"][0]
        if os.access(python, os.X_OK):
            yield Check(f"kernel {name}", "good", folder, "Jupyter offers it")
        else:
            yield Check(f"kernel {name}", "weak", f"its Python `{python}` is gone",
                "this kernel can't start", f"sandbox-kernel install --name {name}")  # fmt: skip


def _helper(name: str) -> str:
    """The absolute path of a helper, from a fixed list of folders."""
    paths = (os.path.join(folder, name) for folder in HELPER_FOLDERS)
    return next((path for path in paths if os.access(path, os.X_OK)), "")


def _subordinate(path: str, user: str) -> str:
    """`FIRST+COUNT` of the user's line in /etc/subuid or /etc/subgid, or nothing."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.strip().split(":") for line in file]
    except OSError:
        return ""
    wanted = (user, str(os.getuid()))
    return next(
        (f"{line[1]}+{line[2]}" for line in lines if len(line) == 3 and line[0] in wanted), ""
    )


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


VERBS = {
    "doctor": Verb(
        "doctor [--format json]",
        "Try what this machine can do, and say for each what was found, what it means, and the "
        "command that mends it. Exit status 1 if no container could be made.",
        doctor,
        (FORMAT,),
        most=0,
    )
}

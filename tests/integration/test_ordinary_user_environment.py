"""The environment of the ordinary user is what it says it is, and what he is told without ids."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from ordinary_user import OrdinaryUser


def test_the_ordinary_user_is_not_root_and_can_import_the_package(
    ordinary_user: OrdinaryUser,
) -> None:
    program = "import os, sandbox_kernel; print(os.getuid(), sandbox_kernel.__file__)"

    uid, file = ordinary_user.run(["python", "-c", program], check=True).stdout.split()

    assert int(uid) == ordinary_user.uid != 0
    assert file.startswith(str(ordinary_user.place))


def test_the_ordinary_user_has_a_range_of_ids(ordinary_user: OrdinaryUser) -> None:
    for table in ("/etc/subuid", "/etc/subgid"):
        with open(table) as lines:
            assert any(line.startswith(f"{ordinary_user.name}:") for line in lines)


def test_a_delegated_user_may_make_control_groups_of_his_own(
    delegated_user: OrdinaryUser,
) -> None:
    program = """
from sandbox_kernel.runtime import cgroups
group = cgroups.choose().create("launcher/container", {"pids": {"limit": 9}})
print(group.limits()["pids_limit"])
group.remove()
"""

    assert delegated_user.run(["python", "-c", program], check=True).stdout.strip() == "9"


ONE, NONE = "0 0 1\n", ""
WITHOUT_IDS = {
    "newuidmap is missing": (
        "mount --bind /dev/null /usr/bin/newuidmap",
        ONE,
        "as root: apt-get install uidmap",
    ),
    "there are no ranges": (
        "mount --bind /dev/null /etc/subuid",
        ONE,
        "as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}",
    ),
    "the ranges are of others": (
        "echo other:100000:65536 > {place}/ids && mount --bind {place}/ids /etc/subuid",
        ONE,
        "as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}",
    ),
    "the ranges overlap": (
        "echo {name}:{uid}:65536 > {place}/ids && mount --bind {place}/ids /etc/subuid",
        NONE,
        "as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}",
    ),
}
"""What is done to him, which ids a container of his has then, and what is said to mend it."""


@pytest.mark.fault(20)
@pytest.mark.parametrize("lacks", WITHOUT_IDS, ids=[f"ordinary, {name}" for name in WITHOUT_IDS])
def test_without_ids_the_ordinary_user_has_one_or_is_told_what_mends_it(
    ordinary_user: OrdinaryUser, lacks: str
) -> None:
    prepare, ids, mends = (
        text.format(
            name=ordinary_user.name,
            uid=ordinary_user.uid,
            place=shlex.quote(str(ordinary_user.place)),
        )
        for text in WITHOUT_IDS[lacks]
    )
    program = (
        "import subprocess, sys\n"
        "from sandbox_kernel.cli import doctor\n"
        "argv = [sys.executable, '-m', 'sandbox_kernel.cli.main', 'run', 'host']\n"
        "argv += ['cat', '/proc/self/uid_map']\n"
        "done = subprocess.run(argv, capture_output=True, text=True)\n"
        "print(*done.stdout.split())\n"
        "print(doctor._ids().mend if done.returncode == 0 else done.stderr)\n"
    )
    home = ["/usr/bin/env", f"HOME={ordinary_user.home}"]
    argv = ordinary_user.command([*home, ordinary_user.python, "-c", program])
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f'{prepare} && exec "$@"', "sh", *argv],
        capture_output=True, text=True, check=False, timeout=60, cwd="/",
    )  # fmt: skip
    shown, _, rest = done.stdout.partition("\n")
    assert shown == ids.strip(), done
    assert mends in rest

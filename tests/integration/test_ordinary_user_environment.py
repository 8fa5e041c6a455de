"""The environment of the ordinary user, on which his tests stand, is what it says it is."""

from __future__ import annotations

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

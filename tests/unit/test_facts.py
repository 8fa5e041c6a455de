"""Facts read from files of the kernel: what stands there comes out, what does not has a reason."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path

import bpf
import pytest

from sandbox_kernel import policy
from sandbox_kernel.linux import seccomp, seccomp_answers, seccomp_cache
from sandbox_kernel.observe import (
    capabilities,
    fact,
    filters,
    identities,
    links,
    mounts,
    namespaces,
    open_files,
    processes,
)
from sandbox_kernel.observe.groups import Group


def test_what_can_not_be_read_has_a_reason_and_a_source() -> None:
    found = mounts.of_process(2**30)

    assert (found.value, found.reason) == (None, "it ended")
    assert found.source == f"/proc/{2**30}/mountinfo"
    assert fact.why(PermissionError(errno.EACCES, "")) == "not visible to you: Permission denied"


def test_this_process_is_described_as_the_kernel_has_it() -> None:
    own = processes.of_process(os.getpid()).value
    assert own is not None
    assert (own.pid, own.parent, own.uid) == (os.getpid(), os.getppid(), os.geteuid())
    assert own.command
    assert own.memory_bytes > 1 << 20

    spaces = namespaces.of_process("self")
    user = spaces["user"].value
    assert user is not None
    assert user.inode == os.stat("/proc/self/ns/user").st_ino
    network = spaces["network"].value
    assert network is not None
    assert network.user_namespace in (user.inode, None)

    sets = capabilities.of_process("self").value
    assert sets is not None
    assert set(sets.effective) <= set(sets.permitted) <= set(capabilities.known())
    assert set(capabilities.known()) <= set(capabilities.MEANS)


def test_an_open_file_is_found_with_its_position(tmp_path: Path) -> None:
    path = tmp_path / "a file\nof two lines"
    with path.open("w") as file:
        file.write("1234")
        file.flush()
        found = open_files.of_process("self").value
        assert found is not None
        (own,) = [each for each in found if each.descriptor == file.fileno()]

    assert (own.path, own.mode, own.position) == (str(path), "w", 4)


def test_shared_namespaces_name_all_who_share_and_the_host() -> None:
    found = namespaces.shared({"one": os.getpid(), "two": os.getpid()})

    assert {each.kind for each in found} == set(namespaces.KINDS)
    assert all(each.members == ("one", "two") and each.with_host for each in found)


def test_ids_are_those_of_the_container_or_none() -> None:
    extents = (identities.Extent(0, 1000, 1), identities.Extent(1, 100000, 65535))

    assert [identities.inner_id(uid, extents) for uid in (1000, 100000, 165534, 165535, 0)] == [
        0, 1, 65535, None, None,
    ]  # fmt: skip


def test_rates_are_what_was_counted_between_two_readings() -> None:
    before = (links.Link("eth0", 100, 1, 0, 50, 1, 0),)
    after = (links.Link("eth0", 1100, 11, 0, 50, 1, 0), links.Link("eth1", 5, 5, 5, 5, 5, 5))

    assert links.between(before, after, 2.0) == (links.Rate("eth0", 500.0, 5.0, 0.0, 0.0),)


def _written(folder: Path, files: dict[str, str]) -> str:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return str(folder)


def test_a_group_of_version_1_is_read_with_the_file_of_each_number(tmp_path: Path) -> None:
    memory = _written(
        tmp_path / "memory",
        {
            "memory.usage_in_bytes": "4096\n",
            "memory.limit_in_bytes": "9223372036854771712\n",
            "memory.stat": "cache 1\nrss 2\ntotal_cache 300\ntotal_rss 400\n",
            "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
        },
    )
    blkio = _written(
        tmp_path / "blkio",
        {"blkio.throttle.io_service_bytes": "8:0 Read 10\n8:0 Write 20\n8:16 Read 5\nTotal 35\n"},
    )
    with Group({"memory": memory, "blkio": blkio}) as group:
        usage, events, limits = group.usage(), group.events(), group.limits()
        pressure = group.pressure()["cpu"]

    assert usage["memory_bytes"] == fact.Fact(4096, f"{memory}/memory.usage_in_bytes")
    assert (usage["file_bytes"].value, usage["anonymous_bytes"].value) == (300, 400)
    assert (usage["read_bytes"].value, usage["written_bytes"].value) == (15, 20)
    assert usage["cpu_seconds"].reason == "this machine does not count it"
    assert events["out_of_memory"].value == 3
    assert limits["memory"].value == math.inf
    assert "version 1" in pressure.reason


def test_a_group_of_version_2_is_read_with_pressure_and_its_tree(tmp_path: Path) -> None:
    here = _written(
        tmp_path / "group",
        {
            "memory.current": "4096\n",
            "memory.max": "max\n",
            "memory.events": "low 0\nhigh 0\nmax 4\noom 1\noom_kill 2\n",
            "cpu.stat": "usage_usec 1500000\nnr_throttled 7\nthrottled_usec 250000\n",
            "cpu.max": "50000 100000\n",
            "io.stat": "8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=2\n",
            "memory.pressure": "some avg10=1.50 avg60=0 avg300=0 total=2000000\n"
            "full avg10=0.50 avg60=0 avg300=0 total=1000000\n",
            "cgroup.procs": "1\n2\n",
        },
    )
    _written(tmp_path / "group" / "run", {"cgroup.procs": "3\n"})
    with Group({"": here}) as group:
        usage, events, limits = group.usage(), group.events(), group.limits()
        pressure, tree = group.pressure(), group.tree()

    assert (usage["cpu_seconds"].value, usage["throttled_seconds"].value) == (1.5, 0.25)
    assert (usage["read_bytes"].value, usage["written_bytes"].value) == (11, 22)
    assert (events["at_memory_limit"].value, events["out_of_memory"].value) == (4, 2)
    assert limits["memory"].value == math.inf
    assert (limits["cpu_quota_seconds"].value, limits["cpu_period_seconds"].value) == (0.05, 0.1)
    memory = pressure["memory"].value
    assert memory is not None
    assert (memory.some, memory.full, memory.some_seconds) == (1.5, 0.5, 2.0)
    assert pressure["cpu"].value is None
    assert tree is not None
    assert (tree.processes, [(each.name, each.processes) for each in tree.below]) == (
        2, [("run", 1)],
    )  # fmt: skip


def test_a_group_that_is_gone_says_so(tmp_path: Path) -> None:
    with Group({"": str(tmp_path / "gone")}) as group:
        assert group.usage()["memory_bytes"].reason == "it ended"
        assert group.tree() is None


def test_the_filter_answers_as_its_program_does_for_every_call_it_names() -> None:
    plan = policy.plan()
    said, profile = filters.of_plan(plan), filters.profile_of(plan)
    assert said is not None
    assert profile is not None
    program = seccomp_cache.program(profile)
    answers = seccomp_answers.Answers(program)
    architecture = seccomp_answers.here()

    for name in (*said.allowed, *(name for name, _ in said.refused), "mount", "getpid"):
        number = seccomp.number_of(name)
        if number is None:
            continue
        expected = bpf.answer(program, number, architecture=architecture)
        assert answers.of(number, (), architecture) == expected, name
        refused = answers.refuses(number, (), architecture)
        shown = "allowed" if refused is None else errno.errorcode[refused]
        assert said.says(name) == shown, name
        assert seccomp.name_of(number) == name or name not in seccomp.name_of(number)
    assert answers.refuses(0, (), 0x40000003) == 0  # a foreign ABI ends the process
    assert said.says("a call of tomorrow") == "ENOSYS"


def test_no_filter_is_said_to_be_none() -> None:
    assert filters.of_plan(policy.plan("program", security_opt=["seccomp=unconfined"])) is None


@pytest.mark.parametrize("size", [7, 9])
def test_what_is_no_program_is_refused(size: int) -> None:
    with pytest.raises(Exception, match="not a program"):
        seccomp_answers.Answers(bytes(size))

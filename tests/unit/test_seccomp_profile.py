"""What the compiled filter answers for every call and for hostile arguments, by interpretation."""

from __future__ import annotations

import ctypes
import errno
import functools
import pathlib
import platform
import random

import bpf
import pytest

from sandbox_kernel import bundle
from sandbox_kernel.bundle import seccomp_profile as tables
from sandbox_kernel.container import warm
from sandbox_kernel.linux import seccomp
from sandbox_kernel.policy import ContainerPlan

ARCHITECTURE = {"x86_64": bpf.AUDIT_ARCH_X86_64, "aarch64": bpf.AUDIT_ARCH_AARCH64}[
    platform.machine()
]
EPERM = bpf.ERRNO | errno.EPERM
ENOSYS = bpf.ERRNO | errno.ENOSYS
EAFNOSUPPORT = bpf.ERRNO | errno.EAFNOSUPPORT
EPROTONOSUPPORT = bpf.ERRNO | errno.EPROTONOSUPPORT
HIGH = 1 << 32


@pytest.fixture(scope="module")
def ask():
    """ask(name or number, *arguments, capabilities=()) -> the program's answer."""
    programs = {}

    def ask(call, *arguments, capabilities=(), architecture=ARCHITECTURE):
        if capabilities not in programs:
            programs[capabilities] = seccomp.build(tables.profile(capabilities))
        number = number_of(call) if isinstance(call, str) else call
        return bpf.answer(programs[capabilities], number, *arguments, architecture=architecture)

    return ask


def number_of(call):
    """The number on this machine; negative when it has no such call."""
    number = ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_name(call.encode())
    return seccomp.NEWER_NUMBERS.get(call, -1) if number == -1 else number


def names(groups):
    """The calls of these tables that this machine has."""
    return [call for group in groups for call in group.calls if number_of(call) >= 0]


EXECUTABLE = [
    # call, arguments, whether `strict` lets it pass
    ("mmap", (0, 4096, 3, 0x22), True),
    ("mmap", (0, 4096, 5, 0x2), True),  # a library
    ("mmap", (0, 4096, 5, 0x22), False),
    ("mmap", (0, 4096, 7, 0x22), False),
    ("mmap", (0, 4096, 7, 0x2), False),
    ("mmap", (0, 4096, 6, 0x1), False),
    ("mmap", (0, 4096, HIGH | 5, HIGH | 0x22), False),
    ("mprotect", (0, 4096, 1), True),
    ("mprotect", (0, 4096, 5), False),
    ("mprotect", (0, 4096, HIGH | 4), False),
    ("pkey_mprotect", (0, 4096, 4, 0), False),
    ("pkey_mprotect", (0, 4096, 3, 0), True),
    ("shmat", (0, 0, 0x8000), False),
    ("shmat", (0, 0, 0x1000), True),
]


@pytest.mark.parametrize(("call", "arguments", "passes"), EXECUTABLE)
def test_strict_lets_no_memory_be_executed_that_has_no_file(ask, strict, call, arguments, passes):
    assert ask(call, *arguments) == bpf.ALLOW
    refused = bpf.ERRNO | errno.EACCES
    assert strict("none", call, *arguments) == (bpf.ALLOW if passes else refused)


@pytest.mark.parametrize(
    ("network", "families"),
    [("none", {1}), ("bridge", {1, 2, 16}), ("friends", {1, 2, 16}), ("host", {1, 2, 10, 16}),
     ("container:other", {1, 2, 10, 16})],
)  # fmt: skip
def test_strict_has_the_families_of_its_network(strict, network, families):
    for call in ("socket", "socketpair"):
        for family in range(64):
            passes = bpf.ALLOW if family in families else EAFNOSUPPORT
            assert strict(network, call, family, 1, 0) == passes
            assert strict(network, call, HIGH | family, 1, 0) == passes


@pytest.fixture(scope="module")
def strict():
    """As `ask`, of a container with `strict` and this network."""
    programs = {}

    def ask(network, call, *arguments):
        if network not in programs:
            plan = ContainerPlan(strict=True, network=network)
            programs[network] = seccomp.build(bundle.profile(plan))
        number = number_of(call) if isinstance(call, str) else call
        return bpf.answer(programs[network], number, *arguments, architecture=ARCHITECTURE)

    return ask


def test_strict_passes_no_call_that_the_usual_filter_refuses(ask, strict):
    for number in range(600):
        passes = strict("host", number) == bpf.ALLOW
        assert not passes or ask(number) == bpf.ALLOW
    assert strict("host", "memfd_create") == strict("host", "ptrace") == EPERM


def test_no_call_stands_in_two_tables():
    every = names(tables.ALLOWED) + names(tables.REFUSED)
    assert sorted(every) == sorted(set(every))


@pytest.mark.parametrize("call", names(tables.ALLOWED))
def test_allowed_call_passes_with_any_argument(ask, call):
    assert ask(call) == bpf.ALLOW
    assert ask(call, *[2**64 - 1] * 6) == bpf.ALLOW


@pytest.mark.parametrize("call", names(tables.REFUSED))
def test_refused_call_is_not_permitted_whatever_its_arguments(ask, call):
    assert ask(call) == EPERM
    assert ask(call, *[2**64 - 1] * 6) == EPERM


def test_clone3_looks_like_a_kernel_without_it(ask):
    assert ask("clone3") == ENOSYS
    assert ask("clone3", capabilities=("CAP_SYS_ADMIN",)) == ENOSYS


@pytest.mark.parametrize("number", [470, 471, 500, 1000, 0x3FFFFFFF])
def test_unknown_call_looks_like_an_old_kernel(ask, number):
    assert ask(number) == ENOSYS


@pytest.mark.skipif(platform.machine() != "x86_64", reason="ABIs of x86-64")
def test_foreign_abi_ends_the_process(ask):
    assert ask(20, architecture=bpf.AUDIT_ARCH_I386) == bpf.KILL_PROCESS
    assert ask(0x40000000 | 39) == bpf.KILL_PROCESS
    assert ask("getpid", architecture=bpf.AUDIT_ARCH_AARCH64) == bpf.KILL_PROCESS


@pytest.mark.parametrize("request_", tables.REFUSED_REQUESTS)
def test_terminal_injection_is_refused_on_the_low_32_bits(ask, request_):
    assert ask("ioctl", 0, request_, 0) == EPERM
    assert ask("ioctl", 0, request_ | HIGH, 0) == EPERM
    assert ask("ioctl", 0, request_ | 0xFFFFFFFF << 32, 0) == EPERM
    assert ask("ioctl", 0, request_ ^ 1, 0) == bpf.ALLOW


def test_every_other_ioctl_request_passes(ask):
    dice = random.Random(1)
    requests = [0x5401, 0x5413, 0x5421, 0xC0045877, 0, 2**32 - 1]
    requests += [dice.getrandbits(32) for _ in range(300)]
    requests += [request ^ 1 << bit for request in tables.REFUSED_REQUESTS for bit in range(32)]
    for request in requests:
        expected = EPERM if request in tables.REFUSED_REQUESTS else bpf.ALLOW
        assert ask("ioctl", 0, request) == expected, hex(request)


def test_clone_makes_threads_and_processes_but_no_namespace(ask):
    assert ask("clone", 0x3D0F00) == bpf.ALLOW  # a thread, as the C library makes it
    assert ask("clone", 0x1200011) == bpf.ALLOW  # a fork
    for bit in range(32):
        flag = 1 << bit
        if flag & tables.NAMESPACE_FLAGS:
            assert ask("clone", flag | 17) == EPERM, hex(flag)
            assert ask("clone", flag | 17 | HIGH) == EPERM, hex(flag)
    assert ask("clone", tables.NAMESPACE_FLAGS) == EPERM


def test_administrator_may_make_namespaces_but_no_user_namespace(ask):
    admin = ("CAP_SYS_ADMIN",)
    for call in ("clone", "unshare"):
        assert ask(call, tables.CLONE_NEWNS, capabilities=admin) == bpf.ALLOW
        assert ask(call, tables.CLONE_NEWUSER, capabilities=admin) == EPERM
        assert ask(call, tables.CLONE_NEWUSER | HIGH, capabilities=admin) == EPERM
        assert ask(call, tables.NAMESPACE_FLAGS, capabilities=admin) == EPERM
    assert ask("mount", capabilities=admin) == bpf.ALLOW


def test_machine_wide_calls_stay_refused_with_every_capability(ask):
    every = tuple(tables.BY_CAPABILITY)
    given = {call for calls in tables.BY_CAPABILITY.values() for call in calls.split()}
    for call in set(names(tables.REFUSED)) - given - {"unshare"}:
        assert ask(call, capabilities=every) == EPERM, call


@pytest.mark.parametrize("call", ["socket", "socketpair"])
def test_socket_families(ask, call):
    for family in range(50):
        for sent in (family, family | HIGH):
            found = ask(call, sent, 1, 0)
            if family in (*tables.FAMILIES, tables.AF_NETLINK):
                assert found == bpf.ALLOW, family
            else:
                assert found == EAFNOSUPPORT, family
    assert ask(call, 2**31) == EAFNOSUPPORT


def test_netlink_reaches_routes_only(ask):
    for protocol in range(1, 40):
        assert ask("socket", tables.AF_NETLINK, 3, protocol) == EPROTONOSUPPORT
        assert ask("socket", tables.AF_NETLINK, 3, protocol | HIGH) == EPROTONOSUPPORT
    assert ask("socket", tables.AF_NETLINK, 3, HIGH) == bpf.ALLOW
    network = ("CAP_NET_ADMIN",)
    assert ask("socket", tables.AF_NETLINK, 3, 12, capabilities=network) == bpf.ALLOW
    assert ask("socket", tables.AF_PACKET, 3, 3, capabilities=("CAP_NET_RAW",)) == bpf.ALLOW


def test_personality_takes_five_values(ask):
    for value in range(70000):
        if value % 997 == 0 or value < 300:
            expected = bpf.ALLOW if value in tables.PERSONALITIES else EPERM
            assert ask("personality", value) == expected
    assert ask("personality", 0xFFFFFFFF) == bpf.ALLOW
    assert ask("personality", 2**64 - 1) == bpf.ALLOW
    assert ask("personality", 0x0040000) == EPERM  # ADDR_NO_RANDOMIZE
    assert ask("personality", 0x0400000 | HIGH) == EPERM  # READ_IMPLIES_EXEC


def test_all_but_covers_each_other_number_once():
    values = (0, 3, 2**32 - 1)
    conditions = tables.all_but(values)
    dice = random.Random(2)
    for number in [*values, 1, 2, 4, 2**31, *(dice.getrandbits(32) for _ in range(500))]:
        hits = sum(number & mask == value for mask, value in conditions)
        assert hits == (0 if number in values else 1), number


def test_the_reference_page_is_made_of_the_tables():
    page = pathlib.Path(__file__).resolve().parents[2] / "docs/reference/seccomp.md"
    assert page.read_text() == tables.markdown()


def test_a_template_and_what_closes_it_answer_together_as_one_filter(ask):
    """The kernel takes the strictest answer of all filters."""
    answer = functools.partial(bpf.answer, architecture=ARCHITECTURE)
    wide, closing = (
        seccomp.build(profile)
        for profile in (tables.profile(also=warm.ALSO), tables.closing(warm.ALSO))
    )
    calls = [*names(tables.ALLOWED), *names(tables.REFUSED)]
    for call in (*calls, "clone", "clone3", "ioctl", "socket", "personality", 1000):
        number = number_of(call) if isinstance(call, str) else call
        for arguments in ((), [2**64 - 1] * 6):
            both = [answer(program, number, *arguments) for program in (wide, closing)]
            assert min(both) == ask(call, *arguments), call
    assert answer(wide, number_of("setns")) == bpf.ALLOW

"""Text becomes values exactly, or is refused in one line that says what is allowed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_kernel import grammar
from sandbox_kernel.errors import InvalidOption

GIB, MIB = 1 << 30, 1 << 20
ANYTHING = st.one_of(
    st.text(max_size=80),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.binary(max_size=8),
    st.lists(st.text(max_size=5), max_size=3),
    st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3),
)
PARSERS: list[Callable[[object, str], object]] = [
    grammar.size, grammar.pages, grammar.seconds, grammar.seconds_or_none, grammar.processors,
    grammar.cpuset, grammar.pids, grammar.shares, grammar.switch, grammar.name, grammar.hostname,
    grammar.user, grammar.image, grammar.word, grammar.path_inside, grammar.capability,
    grammar.security_option, grammar.variable, grammar.label, grammar.ulimit, grammar.device_rate,
    grammar.mount, grammar.tmpfs, grammar.mount_target, grammar.one_of("none"),
]  # fmt: skip


@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: parse.__name__)
@given(value=ANYTHING)
def test_whatever_is_given_is_a_value_or_one_line(
    parse: Callable[[object, str], object], value: object
) -> None:
    try:
        parse(value, "--option")
    except InvalidOption as error:
        assert "\n" not in str(error)
        assert "--option" in str(error)
        assert error.allowed


@given(number=st.integers(1, 10**6), unit=st.sampled_from(["", "b", "k", "KB", "m", "MiB", "g"]))
def test_a_size_is_its_number_times_a_power_of_1024(number: int, unit: str) -> None:
    factor = grammar.FACTORS[unit[:1].lower().replace("b", "")]

    assert grammar.size(f"{number}{unit}", "--memory") == number * factor


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1.5g", 3 * GIB // 2), ("256m", 256 * MIB), ("0.5k", 512), ("1GiB", GIB), ("7", 7)],
)
def test_sizes_are_exact(text: str, expected: int) -> None:
    assert grammar.size(text, "--memory") == expected


@pytest.mark.parametrize(
    "value",
    ["banana", "-1", "10 gigs", "", " 1g", "1g ", "1e3", "nan", "inf", "0", 0, -1, True, 1.5,
     "1e400", 2**64, "9" * 30, "１g", "1\N{KELVIN SIGN}", None, b"1g", "0x10", "1_000", "1,5g"],
)  # fmt: skip
def test_what_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(InvalidOption, match=r"256m or 1\.5g"):
        grammar.size(value, "--memory")


@given(count=st.integers(grammar.PAGE, 1 << 40))
def test_memory_is_whole_pages_never_more_than_asked(count: int) -> None:
    floored = grammar.pages(count, "--memory")

    assert floored % grammar.PAGE == 0
    assert count - grammar.PAGE < floored <= count


@pytest.mark.parametrize(
    ("text", "expected"), [("500ms", 0.5), ("30s", 30), ("2m", 120), ("1h", 3600), ("1.5", 1.5)]
)
def test_times_have_units(text: str, expected: float) -> None:
    assert grammar.seconds(text, "--timeout") == expected


@pytest.mark.parametrize("value", ["0", "-1s", "nan", "inf", "1 s", "5d", float("nan"),
    float("inf"), True, 10**20, "1e3"])  # fmt: skip
def test_what_is_no_time_is_refused(value: object) -> None:
    with pytest.raises(InvalidOption):
        grammar.seconds(value, "--timeout")


@pytest.mark.parametrize("value", ["nan", float("nan"), float("inf"), "inf", "-1", "0", 0, True,
    "1e400", "half", "0.001"])  # fmt: skip
def test_what_is_no_number_of_processors_is_refused(value: object) -> None:
    with pytest.raises(InvalidOption, match=r"such as 0\.5 or 2"):
        grammar.processors(value, "--cpus")


@given(numbers=st.sets(st.integers(0, 200), min_size=1))
def test_a_list_of_processors_survives_its_own_spelling(numbers: set[int]) -> None:
    text = grammar.join_numbers(numbers)

    assert grammar.cpu_numbers(text) == numbers
    assert grammar.cpuset(text, "--cpuset-cpus") == text


@pytest.mark.parametrize("value", ["3-1", "1,", "a", "0-9999", "-1", "", "0..2", True])
def test_what_is_no_list_of_processors_is_refused(value: object) -> None:
    with pytest.raises(InvalidOption):
        grammar.cpuset(value, "--cpuset-cpus")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("./data:/data", grammar.Mount("bind", "./data", "/data")),
        ("/a:/b:ro", grammar.Mount("bind", "/a", "/b", read_only=True)),
        ("/a:/b/:rw", grammar.Mount("bind", "/a", "/b")),
        ("type=bind,source=/a,target=/b,readonly", grammar.Mount("bind", "/a", "/b", True)),
        ("type=bind,src=/a:b,dst=/b", grammar.Mount("bind", "/a:b", "/b")),
        ('"source=/a,b",target=/b', None),
        ('type=bind,"source=/a,b",target=/b', grammar.Mount("bind", "/a,b", "/b")),
        ("type=tmpfs,target=/t,size=8m", grammar.Mount("tmpfs", "", "/t", False, 8 * MIB)),
    ],
)
def test_mounts_are_written_as_docker_writes_them(
    text: str, expected: grammar.Mount | None
) -> None:
    if expected is None:
        with pytest.raises(InvalidOption):
            grammar.mount(text, "--mount")
    else:
        assert grammar.mount(text, "--mount") == expected


@pytest.mark.parametrize(
    "text",
    ["", ":", "a", "/a:", ":/b", "/a:b", "/a:/b:rx", "/a:/b:ro:z", "/a:/", "/a:/proc", "/a:/sys/x",
     "/a:/dev/null", "/a:/b/../proc", "/a\n:/b", "type=bind,target=/b",
     "type=tmpfs,source=/a,target=/b",
     "type=bind,source=/a,source=/c,target=/b", "type=volume,source=a,target=/b",
     "type=bind,source=/a,target=/b,size=1m", "type=bind,source=/a,target=/b,what=1",
     'type=bind,"source=/a', "/a:/b,readonly\0"],
)  # fmt: skip
def test_what_is_no_mount_is_refused(text: str) -> None:
    with pytest.raises(InvalidOption):
        grammar.mount(text, "--mount")


@given(source=st.text(min_size=1, max_size=30), target=st.text(min_size=1, max_size=30))
def test_a_mount_that_is_read_says_what_was_written(source: str, target: str) -> None:
    try:
        mount = grammar.mount({"source": source, "target": f"/{target}"}, "--mount")
    except InvalidOption:
        return
    assert mount.source == source
    assert mount.target.startswith("/")
    assert ".." not in mount.target.split("/")
    assert mount.target.split("/")[1] not in ("", "proc", "sys", "dev")


@pytest.mark.parametrize("value", ["--help", "-v", "../x", ".", "..", "", "x" * 10_000, "а",
    "a b", "a/b", "a\n", "_x", 7, None])  # fmt: skip
def test_names_have_a_strict_pattern(value: object) -> None:
    with pytest.raises(InvalidOption):
        grammar.name(value, "--name")


@pytest.mark.parametrize("value", [1, 0, "yes", "True", None, "1"])
def test_a_switch_is_true_or_false_and_no_number(value: object) -> None:
    with pytest.raises(InvalidOption):
        grammar.switch(value, "--read-only")


def test_a_limit_of_a_process_has_a_soft_and_a_hard_value() -> None:
    assert grammar.ulimit("nofile=1024", "--ulimit") == grammar.Ulimit("nofile", 1024, 1024)
    assert grammar.ulimit("core=0:unlimited", "--ulimit").hard == grammar.UNLIMITED
    for bad in ("nofile", "nofile=2:1", "files=1", "nofile=-1", "nofile=1:2:3", "nofile=1:"):
        with pytest.raises(InvalidOption):
            grammar.ulimit(bad, "--ulimit")


def test_capabilities_have_the_kernels_spelling() -> None:
    assert grammar.capability("net_raw", "--cap-add") == "CAP_NET_RAW"
    assert grammar.capability("CAP_NET_RAW", "--cap-add") == "CAP_NET_RAW"
    assert grammar.capability("all", "--cap-drop") == "ALL"
    with pytest.raises(InvalidOption):
        grammar.capability("SYS_EVERYTHING", "--cap-add")


def test_a_variable_has_a_plain_key_and_any_value() -> None:
    assert grammar.variable("A=b=c\n", "--env") == ("A", "b=c\n")
    assert grammar.variable("A", "--env") == ("A", None)
    for bad in ("", "=x", "1A=x", "A B=x", "A=\0", "\N{CYRILLIC CAPITAL LETTER A}=x"):
        with pytest.raises(InvalidOption):
            grammar.variable(bad, "--env")

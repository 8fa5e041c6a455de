"""The grammar of allow-lists: what an entry means, and what is refused instead of being guessed."""

from __future__ import annotations

import time

import pytest

from sandbox_kernel import allowing
from sandbox_kernel.allowing import Allowed, AllowList, Network
from sandbox_kernel.errors import InvalidOption


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("pypi.org:443", Allowed("tcp", "pypi.org", 443, 443)),
        ("tcp:PyPI.Org.:443", Allowed("tcp", "pypi.org", 443, 443)),
        ("udp:ntp.example:123", Allowed("udp", "ntp.example", 123, 123)),
        ("*.example.org:8000-8080", Allowed("tcp", "*.example.org", 8000, 8080)),
        ("bücher.example:1", Allowed("tcp", "xn--bcher-kva.example", 1, 1)),
        ("host", Allowed("tcp", "host", 0, 65535)),
        ("10.1.0.0/16:5432", Allowed("tcp", Network(0x0A010000, 16), 5432, 5432)),
        ("169.254.169.254:80", Allowed("tcp", Network(0xA9FEA9FE, 32), 80, 80)),
        ("0.0.0.0/0", Allowed("tcp", Network(0, 0), 0, 65535)),
    ],
)
def test_an_entry_is_read_as_it_is_documented_and_written_back_the_same(
    text: str, means: Allowed
) -> None:
    read = allowing.entry(text, "--allow")

    assert read == means
    assert allowing.entry(str(read), "--allow") == read


@pytest.mark.parametrize(
    "text",
    [
        "", ":443", "pypi.org:", "pypi.org:0", "pypi.org:65536", "pypi.org:9-8", "pypi.org:443:1",
        "pypi.org:+443", "pypi.org:٤٤٣", "pypi.org:443 ", "pypi.org\n:443", "https://pypi.org",
        "icmp:pypi.org", "sctp:pypi.org:1", "*", "*:443", "*.*.org", "a.*.org", "-a.org", "a-.org",
        "a..org", ".org", "a" * 64 + ".org", ".".join(["abc"] * 64) + ".org", "a_b!.org",
        "10.1.2.3/16:80", "10.1/16", "10.0.0.1/33", "10.0.0.1/08", "10.0.0.256",
        # one address in notations that programs read in different ways: corpus H 91
        "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518", "0xa9.254.169.254",
        "010.0.0.1", "127.1", "1.2.3.4.", "example.0x7f", "*.127.0.0.1",
        "127.0.0.1:80", "127.0.0.0/8", "0.0.0.0", "224.0.0.251", "255.255.255.255",
        "[::1]:80", "::1", "fd00:ec2::254", "2001:db8::/32", "::ffff:127.0.0.1",
    ],
)  # fmt: skip
def test_what_could_mean_something_else_is_refused_with_the_option(text: str) -> None:
    with pytest.raises(InvalidOption, match="option `--allow`"):
        allowing.entry(text, "--allow")


@pytest.mark.parametrize("value", [None, 443, b"pypi.org", ["pypi.org"], True])
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(InvalidOption):
        allowing.entry(value, "--allow")


def listed(*texts: str) -> AllowList:
    return AllowList(allowing.entry(text, "--allow") for text in texts)


@pytest.mark.parametrize(
    ("name", "ports"),
    [
        ("good.com", [443]),
        ("a.good.com", [80]),
        ("a.b.good.com", [80, 22]),
        ("good.com.evil.com", []),
        ("evilgood.com", []),
        ("com", []),
        ("", []),
    ],
)
def test_a_suffix_is_one_of_whole_labels_and_never_of_the_start(
    name: str, ports: list[int]
) -> None:
    allowed = listed("good.com:443", "*.good.com:80", "*.b.good.com:22", "good.com:443")

    assert sorted(item.first for item in allowed.of_name(name)) == sorted(ports)


@pytest.mark.parametrize(
    ("text", "special"),
    [
        ("10.1.0.0/16", True),
        ("169.254.169.254", True),
        ("100.100.100.200", True),
        ("0.0.0.0/0", False),
        ("8.0.0.0/6", False),  # has all of 10.0.0.0/8 in it, and names none of it
        ("9.9.9.9", False),
        ("pypi.org", False),
    ],
)
def test_only_who_names_a_special_range_means_it(text: str, special: bool) -> None:
    assert allowing.entry(text, "--allow").special is special


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("EXAMPLE.org.", "example.org"),
        ("XN--Bcher-KVA.example", "xn--bcher-kva.example"),
        ("a..b", None),
        ("1.2.3.4", None),
        ("0x7f000001", None),
        ("x" * 64, None),
        ("a b", None),
    ],
)
def test_names_have_one_spelling(text: str, plain: str | None) -> None:
    assert allowing.plain_name(text) == plain


def test_a_long_list_is_looked_up_like_a_short_one() -> None:
    def fastest(allowed: AllowList) -> float:
        times = []
        for _ in range(20):
            begin = time.perf_counter()
            for _ in range(100):
                assert allowed.of_name("a.b.name-3.example")
            times.append(time.perf_counter() - begin)
        return min(times)

    short = listed(*(f"*.name-{number}.example:443" for number in range(10)))
    long = listed(*(f"*.name-{number}.example:443" for number in range(10_000)))

    assert fastest(long) < 3 * fastest(short)

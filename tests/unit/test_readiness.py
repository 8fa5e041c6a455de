"""When a service counts as ready: what may be typed, and how listeners are found."""

from __future__ import annotations

import os
import socket

import pytest

from magics import grammar
from sandbox_kernel.container import readiness
from sandbox_kernel.errors import InvalidOption


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        ("--background --wait-port 0", "from 1 to 65535"),
        ("--background --wait-port http", "from 1 to 65535"),
        ("--background --wait-time 1s", "only with --wait-port or --healthcheck"),
        ("--background --healthcheck ''", "a program of the image"),
        ("--background --wait-port 80 --wait-time soon", "a time such as"),
        ("--wait-port 80", "only with `--background`"),
        ("--healthcheck true", "only with `--background`"),
    ],
)
def test_what_makes_no_sense_is_one_line_with_the_option(words: str, allowed: str) -> None:
    with pytest.raises(InvalidOption, match="option `--") as refused:
        grammar.read_cell(words)

    assert allowed in str(refused.value)


def test_several_ports_and_a_check_are_read_together() -> None:
    read = grammar.read_cell(
        "--background --wait-port 80,443 --wait-port 80 --healthcheck 'a \"b c\"' --wait-time 2m"
    ).readiness

    assert (read.ports, read.check, read.seconds) == ((80, 443), ("a", "b c"), 120.0)
    assert not grammar.read_cell("--background").readiness


@pytest.mark.parametrize("address", ["127.0.0.1", "::"])
def test_a_listener_is_found_and_a_connection_is_none(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        port = server.getsockname()[1]
        with socket.create_connection(server.getsockname()[:2]) as client:
            found = readiness.listeners(os.getpid())

            assert port in found
            assert client.getsockname()[1] not in found

    assert port not in readiness.listeners(os.getpid())

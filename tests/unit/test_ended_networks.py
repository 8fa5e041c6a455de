"""Descriptors of network namespaces that are closed some at once."""

from __future__ import annotations

import os
import time

from sandbox_kernel.runtime import ended_networks
from sandbox_kernel.runtime.ended_networks import EndedNetworks


def opened(count: int) -> list[int]:
    return [os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC) for _ in range(count)]


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_they_wait_until_there_are_some_and_no_longer_than_a_moment() -> None:
    ended = EndedNetworks()
    assert ended.due is None
    *first, last = opened(ended_networks.MOST)
    before = time.monotonic()
    for descriptor in first:
        ended.add([descriptor])
    assert all(map(is_open, first))
    assert ended.due is not None
    assert before <= ended.due - ended_networks.SECONDS <= time.monotonic()
    ended.add([])
    assert all(map(is_open, first))
    ended.add([last])
    assert not any(map(is_open, (*first, last)))
    assert ended.due is None


def test_those_that_are_left_can_be_let_go() -> None:
    ended = EndedNetworks()
    some = opened(2)
    ended.add(some)
    ended.close()
    assert not any(map(is_open, some))
    ended.close()

"""Scratch."""

import pytest


@pytest.mark.parametrize("n", range(100))
def test_noop(n):
    pass

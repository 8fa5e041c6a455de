"""Cells in mode `carry` with cgroup v2: each in a group of its own below its container's."""

from __future__ import annotations

import pytest
from cell_promises import *  # noqa: F403

pytestmark = pytest.mark.root

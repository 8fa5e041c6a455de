"""Cells in mode `carry` with cgroup v2: each in a group of its own below its container's."""

from __future__ import annotations

import pytest
from cell_promises import (  # noqa: F401 - what undo does to variables and files knows no groups
    anew,
    kernel,
    test_a_cell_over_its_time_leaves_the_state_as_it_was,
    test_a_cell_that_ends_badly_leaves_the_state_as_it_was,
    test_an_interrupted_cell_leaves_the_state_as_it_was,
    test_old_states_are_dropped_with_a_note_when_memory_is_short,
    test_what_is_left_running_by_a_failed_cell_is_ended,
)

pytestmark = pytest.mark.root

"""What a template does to its memory before it forks, each in an interpreter of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox_kernel.linux import template_memory

COUNTS = """
class Thing: pass
def function(argument): return argument, "a text that is long enough", 12345.678
thing, texts = Thing(), ["one more text %d" % number for number in range(3)]
watched = (thing, Thing, function, function.__code__.co_consts[1], texts, texts[2], Thing.__dict__)
made = template_memory.make_immortal()
before = [sys.getrefcount(one) for one in watched]
held = [(one, one) for one in watched]
same = [sys.getrefcount(one) for one in watched] == before
later = Thing()
count = sys.getrefcount(later)
again = [later, later]
print(made, same, sys.getrefcount(later) - count)
"""

WORKS_ON = """
import collections, decimal, gc, json, weakref
class Thing:
    def __del__(self): print("gone")
stale = [Thing()]
counted = collections.Counter("letters")
template_memory.settle()
assert json.loads(json.dumps({"a": [1, {"b": None}]})) == {"a": [1, {"b": None}]}
assert counted["t"] == 2 and decimal.Decimal(1) / 3 < 1
one = Thing(); seen = weakref.ref(one); del one
assert seen() is None                       # what is made later goes, and at once
sys.modules.update(more := {str(number): Thing for number in range(1000)})
for name in more: del sys.modules[name]
gc.unfreeze(); gc.collect()
print(len(stale))
"""

GAPS = """
small, large = [], []
for _ in range(300):
    small.append(bytes(600))
    large.append(bytes(3400))
small.clear()                               # a gap on each page
if {fills}: template_memory.fill_gaps()
made = [bytes(600) for _ in range(200)]
print(len({{id(one) // 4096 for one in made}} & {{id(one) // 4096 for one in large}}))
"""

POOLS = """
sizes = range(64, 512, 16)
kept = [[bytes(size - 33) for _ in range(5)] for size in sizes]
begun = set(id(one) // 16384 for many in kept for one in many)
if {fills}: template_memory.fill_pools()
now = [bytes(size - 33) for size in sizes]
print(sum(id(one) // 16384 in begun for one in now))
"""

TOGETHER = """
import traceback
text = (
    "def one_%d(value, more=2):\\n  def inner(): return value\\n"
    "  for x in (1, 'a'): value != x\\n"
    "  if value == 'fail': raise KeyError(value)\\n"
)
held, many = [], []
for number in range(40):
    exec(text % number + "  value != 1\\n" * number + "  return (inner(), more)\\n")
    held.append([bytes(300 + 16 * size) for size in range(100)])
    many.append(globals()["one_%d" % number])
def go():
    for one in many: one(3); one("a")
for _ in range(20): go()
pages = lambda: len({id(one.__code__) // 4096 for one in many})
before, never = pages(), lambda: 5
count = template_memory.lay_together(go, [never])
for _ in range(20): go()
print(before, pages(), count, never())
lines = []
sys.settrace(lambda frame, event, argument: lines.append(frame.f_lineno))
result = many[7](4, more=6)
sys.settrace(None)
print(result == (4, 6), lines[0], never.__code__.co_firstlineno > 0)
try: many[7]("fail")
except KeyError as error: print(traceback.extract_tb(error.__traceback__)[-1].lineno)
"""


def _said(program: str, allocator: str = "default") -> list[str]:
    start = "import os, sys; from sandbox_kernel.linux import template_memory\n"
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", start + program],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONMALLOC": allocator}, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


CAN = template_memory.MORTAL_BEFORE <= sys.version_info[:2] < template_memory.UNTRIED_FROM


def test_references_to_what_is_there_are_counted_by_nobody() -> None:
    made, same, of_a_later_one = _said(COUNTS)

    assert (int(made) > 1000, same) == (CAN, str(CAN))
    assert of_a_later_one == "2"


@pytest.mark.parametrize("allocator", ["default", "debug", "malloc"])
def test_an_interpreter_works_on_and_what_is_made_later_goes_as_always(allocator: str) -> None:
    assert _said(WORKS_ON, allocator) == ["gone", "1", *([] if CAN else ["gone"])]


def test_what_a_child_makes_lies_on_other_pages_than_what_its_template_has() -> None:
    (on_theirs,) = map(int, _said(GAPS.format(fills=False)))
    (left,) = map(int, _said(GAPS.format(fills=True)))

    assert on_theirs > 100
    assert left < 4


def test_a_child_begins_pools_of_its_own() -> None:
    (in_old_ones,) = map(int, _said(POOLS.format(fills=False)))
    (left,) = map(int, _said(POOLS.format(fills=True)))

    assert in_old_ones > 20
    assert left < 4  # where something was taken away meanwhile


LOOP = """
from sandbox_kernel.linux.template_memory import _block, POOLED
template_memory.fill_pools()
kept = {id(one) // 16384 for one in template_memory._kept}
made = {size: {id(_block(size, number)) // 16384 for number in range(500)} for size in POOLED}
print(sum(len(found) for found in made.values()), sum(not found <= kept for found in made.values()))
"""


def test_a_loop_that_drops_what_it_makes_goes_on_in_one_pool_that_stays() -> None:
    """Each object in turn, of all sizes: a pool that nothing else is in would be taken apart and
    made again each time."""
    (pools, in_others) = map(int, _said(LOOP))

    assert pools < 2 * len(template_memory.POOLED)
    assert in_others < 3  # whose pool was new already, and is full by chance


@pytest.mark.skipif(sys.version_info < (3, 11), reason="before, no code was written to")
def test_code_that_is_written_to_lies_side_by_side_and_works_as_before() -> None:
    before, after, count, *rest = _said(TOGETHER)
    assert int(after) < int(before) / 2
    assert 40 <= int(count) < 60
    assert rest == ["5", "True", "1", "True", "4"]

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
import collections
sizes = range(64, 512, 16)
kept = [[bytes(size - 33) for _ in range(500)] for size in sizes]
for many in kept: del many[::2]             # gaps, some of them where a pool begins
taken = collections.Counter(id(one) // 16384 for many in kept for one in many)
begun = [pool for pool, count in taken.items() if count > template_memory.NEW]
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
count = template_memory.lay_together([*template_memory.written_by(go), never])
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


IN_A_FORK = """
import time
def used(value): return [value for value in (1, 2) if value]
def unused(value): return used(value)
def used_inside():
    def inner(value): return value + 1
    return inner(1)
def goes(told):
    for _ in range(30): used(1), used_inside()
    told()
def hangs(told):
    for _ in range(30): used(1)
    time.sleep(1000)
def fails(told):
    for _ in range(30): used(1)
    raise RuntimeError
def names(found): return sorted({one.__name__ for one in found} & {"used", "unused", "used_inside"})
print(*names(template_memory.written_by_a_fork(goes, 20)))
begin = time.monotonic()
sys.stderr = open(os.devnull, "w")
print(template_memory.written_by_a_fork(hangs, 0.2) + template_memory.written_by_a_fork(fails, 20))
print(time.monotonic() - begin < 10)
try: os.waitpid(-1, os.WNOHANG)
except ChildProcessError: print("none")
print(len(os.listdir("/proc/self/fd")) < 6)
"""

LOOKUPS = """
class Kind: pass
name = "".join(["put", "together"])
before = sys.getrefcount(name)
for _ in range(3): getattr(Kind(), name, None)
held = sys.getrefcount(name) - before
template_memory.forget_lookups()
print(held > 0, sys.getrefcount(name) - before, getattr(Kind, "__name__"))
"""

NAMES = """
import time
text = "class Kind{0}:\\n  def __init__(self): self.a{0} = self.b = self.c = {0}\\n"
kinds, held = [], []
for number in range(60):
    exec(text.format(number))
    kinds.append(globals()[f"Kind{number}"])
    held.append(bytes(4000))
had, looked = [kind() for kind in kinds], kinds[0]()
looked.__dict__                                # this one keeps the names that it had
def go(told):
    for kind in kinds: kind().d = 5
    told()
def pages(): return {template_memory._place_of_names(kind).value // 4096 for kind in kinds[1:]}
written = template_memory.written_by_a_fork(go, 20)
found = [one for one in written if isinstance(one, type)]
before = pages() if found else ()
template_memory.lay_together(written)
print(len(before), len(pages()) if found else 0, {*kinds} <= {*found})
for kind in kinds: kind.later = property(lambda one: one.b)
for number, one in enumerate([*had, *(kind() for kind in kinds)]):
    one.e = one.later + 1
    del one.c
    want = {f"a{number % 60}": number % 60, "b": number % 60, "e": number % 60 + 1}
    assert one.__dict__ == want == vars(one) and not hasattr(one, "c"), vars(one)
    one.__dict__["f"] = 6
    assert one.f == 6
looked.e = 4
print(vars(looked), [*vars(kinds[1]())])
template_memory.settle()
print(sum(len(vars(kind())) for kind in kinds))
"""

VERSIONS = """
import types, weakref
class Kind:
    pass
class Lazy(types.ModuleType):
    def __getattribute__(self, name): print("looked at"); return super().__getattribute__(name)
class OfTypes(type):
    def __getattr__(cls, name): print("asked for"); raise AttributeError(name)
class Asked(metaclass=OfTypes): pass
sys.modules["lazy"], proxy = Lazy("lazy"), weakref.proxy(Kind)
sys.modules["odd"], sys.modules["none"] = odd, none = types.ModuleType("odd"), 5
odd.__dict__.clear()
odd.__builtins__ = {}
template_memory.give_versions()
def function(value): return value
had = template_memory._version(function).value
template_memory.lay_together([function])
print(had == template_memory._version(function).value or not template_memory._has_versions())
print(function(5))
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


@pytest.mark.skipif(sys.version_info < (3, 11), reason="before, no code was written to")
def test_what_only_a_fork_can_do_tells_what_it_wrote_to_and_leaves_nothing() -> None:
    assert _said(IN_A_FORK) == ["used", "used_inside", "[]", "True", "none", "True"]


def test_no_name_lives_because_it_was_looked_up() -> None:
    assert _said(LOOKUPS) == ["True", "0", "Kind"]


@pytest.mark.parametrize("allocator", ["default", "debug"])
def test_names_that_instances_write_to_lie_side_by_side_and_mean_what_they_did(
    allocator: str,
) -> None:
    before, after, all_of_them, *rest = _said(NAMES, allocator)
    assert (int(before) > 30, int(after) < 20, all_of_them) == (CAN, True, str(CAN))
    assert "".join(rest) == "{'a0':0,'b':0,'c':0,'e':4}['a1','b','c']180"


def test_types_modules_and_functions_have_their_versions_and_nothing_of_theirs_has_run() -> None:
    assert _said(VERSIONS) == ["True", "5"]

"""The capability table, and sets that are really set, in a fresh process."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys

import pytest

from sandbox_kernel.linux import capabilities

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def run(code):
    prelude = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
    prelude += "import json; from sandbox_kernel.linux import capabilities as c\n"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", prelude + code],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_names_and_numbers_are_those_of_the_kernel_s_header():
    header = pathlib.Path("/usr/include/linux/capability.h").read_text()
    found = dict(re.findall(r"^#define (CAP_[A-Z_]+)\s+(\d+)$", header, re.MULTILINE))
    assert {name: int(number) for name, number in found.items()} == capabilities.NUMBERS


def test_masks_and_names_are_each_other_s_inverse():
    mask = capabilities.to_mask(["CAP_SYS_ADMIN", "CAP_CHOWN"])
    assert mask == 1 << 21 | 1
    assert capabilities.to_names(mask) == ("CAP_CHOWN", "CAP_SYS_ADMIN")
    assert capabilities.to_names(1 << 60) == ("CAP_60",)
    assert capabilities.to_names(0) == ()
    with pytest.raises(KeyError):
        capabilities.to_mask(["CAP_MAGIC"])


def test_every_set_is_set_and_read_back():
    found = run(
        "c.drop_bounding(8)\n"
        "c.set_sets(effective=8, permitted=8, inheritable=8, ambient=8)\n"
        "print(json.dumps(c.read()))"
    )
    assert set(found.values()) == {8}


def test_all_gone_stays_gone():
    found = run(
        "c.drop_bounding()\n"
        "c.set_sets(effective=0, permitted=0, inheritable=0)\n"
        "again = ''\n"
        "try:\n"
        "    c.set_sets(effective=1, permitted=1, inheritable=0)\n"
        "except Exception as error:\n"
        "    again = str(error)\n"
        "print(json.dumps([c.read(), again]))"
    )
    assert set(found[0].values()) == {0}
    assert found[1] == "set capabilities `CAP_CHOWN`: Operation not permitted"


def test_the_module_is_light():
    heavy = ["typing", "re", "enum", "dataclasses", "pathlib", "subprocess", "logging", "inspect"]
    found = run(
        "from sandbox_kernel.linux import seccomp_install\n"
        f"print(json.dumps([m for m in {heavy!r} if m in sys.modules]))"
    )
    # json itself, which this test needs to report, imports re.
    assert set(found) <= {"re", "enum"}

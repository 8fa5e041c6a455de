"""Promises about the corpus of attacks: no entry and no known flaw is without a test."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from corpus import GROUPS, all_tests, by_entry
from faults import FAULTS
from known_flaws import ROWS

ROOT = Path(__file__).resolve().parents[2]


def test_every_entry_of_the_corpus_has_a_test() -> None:
    found = by_entry()
    assert [number for number, theirs in sorted(found.items()) if not theirs] == []
    assert set(found) == {number for span in GROUPS.values() for number in span}


def test_every_known_flaw_has_a_test() -> None:
    marked = [flaw for test in all_tests() for flaw in test.flaws]
    known = [flaw for row in ROWS.values() for flaw in row]
    assert [flaw for flaw in known if flaw not in marked] == []
    assert [flaw for flaw in marked if flaw not in known] == []


FOUND = """
import json, sys, pytest

class Words:
    @pytest.hookimpl(trylast=True)
    def pytest_itemcollected(self, item):
        print("\\n" + json.dumps([item.originalname, sorted(item.extra_keyword_matches)]))

sys.exit(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *sys.argv[1:]], [Words()]))
"""


def test_every_known_flaw_is_picked_by_its_number() -> None:
    """By the words that `-k` looks at."""
    files = sorted({test.file for test in all_tests() if test.flaws})
    words = [sys.executable, "-c", FOUND, "-k", "CVE-2019-5736", *files]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    lines = [line for line in done.stdout.splitlines() if line.startswith('["')]
    known = {word for line in lines for word in json.loads(line)[1]}
    missing = [flaw for row in ROWS.values() for flaw in row if flaw.replace(" ", "-") not in known]
    assert missing == []
    if os.geteuid() == 0:  # others are not given what is root's
        picked = [line for line in done.stdout.splitlines() if "::" in line]
        assert sorted(picked) == [
            "tests/hostile/test_a_escape.py::test_a05_the_entering_process_can_t_be_caught",
            "tests/integration/test_oci_known_flaws.py::"
            "test_1_who_enters_or_is_started_can_t_be_caught_by_its_exe",
        ]


def test_every_fault_has_a_test() -> None:
    marked = {number for test in all_tests() for number in test.faults}
    assert [FAULTS[number] for number in FAULTS if number not in marked] == []
    assert marked <= set(FAULTS)


def test_each_promise_of_the_security_page_names_tests_that_exist() -> None:
    part = (
        (ROOT / "docs/security.md")
        .read_text()
        .partition("## What is promised")[2]
        .partition("\n## ")[0]
    )
    promises = re.findall(r"^\d+\. .*(?:\n   .*)*", part, re.MULTILINE)
    assert len(promises) == 6
    known = {(test.file, test.name) for test in all_tests()}
    for promise in promises:
        proofs = re.findall(r"\[`(test_\w+)`\]\(\.\./([^)]+)\)", promise)
        assert proofs, promise
        assert [proof for proof in proofs if (proof[1], proof[0]) not in known] == []


def test_each_test_that_the_security_page_names_is_there() -> None:
    page = (ROOT / "docs/security.md").read_text()
    known = {(test.file, test.name) for test in all_tests()}
    linked = re.findall(r"\[`(test_\w+)`\]\(\.\./([^)]+)\)", page)
    assert [proof for proof in linked if (proof[1], proof[0]) not in known] == []
    assert set(re.findall(r"\btest_\w+(?!\w|\.py)", page)) == {name for name, _ in linked}
    files = set(re.findall(r"\]\(\.\./(tests/[^)#]+)", page))
    assert [name for name in files if not (ROOT / name).exists()] == []

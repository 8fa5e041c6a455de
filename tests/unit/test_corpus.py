"""Promises about the corpus of attacks: no entry and no known flaw is without a test."""

from __future__ import annotations

import re
from pathlib import Path

from corpus import GROUPS, all_tests, by_entry
from faults import FAULTS
from known_flaws import ROWS


def test_every_entry_of_the_corpus_has_a_test() -> None:
    found = by_entry()
    assert [number for number, theirs in sorted(found.items()) if not theirs] == []
    assert set(found) == {number for span in GROUPS.values() for number in span}


def test_every_known_flaw_has_a_test() -> None:
    marked = [flaw for test in all_tests() for flaw in test.flaws]
    known = [flaw for row in ROWS.values() for flaw in row]
    assert [flaw for flaw in known if flaw not in marked] == []
    assert [flaw for flaw in marked if flaw not in known] == []


def test_every_fault_has_a_test() -> None:
    marked = {number for test in all_tests() for number in test.faults}
    assert [FAULTS[number] for number in FAULTS if number not in marked] == []
    assert marked <= set(FAULTS)


def test_each_promise_of_the_security_page_names_tests_that_exist() -> None:
    page = Path(__file__).resolve().parents[2] / "docs/security.md"
    part = page.read_text().partition("## What is promised")[2].partition("\n## ")[0]
    promises = re.findall(r"^\d+\. .*(?:\n   .*)*", part, re.MULTILINE)
    assert len(promises) == 6
    known = {(test.file, test.name) for test in all_tests()}
    for promise in promises:
        proofs = re.findall(r"\[`(test_\w+)`\]\(\.\./([^)]+)\)", promise)
        assert proofs, promise
        assert [proof for proof in proofs if (proof[1], proof[0]) not in known] == []

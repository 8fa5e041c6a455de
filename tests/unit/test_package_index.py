"""The package index as an allow-list, and what a container is told of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox_kernel import errors, package_index, policy, settings

OWN = {
    "UV_DEFAULT_INDEX": "https://me:secret@packages.example:8443/simple/",
    "PIP_EXTRA_INDEX_URL": "http://other.example/simple https://third.example",
    "UV_INDEX": "named=https://fourth.example/simple file:///srv/wheels",
}


@pytest.fixture(autouse=True)
def _no_index_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*package_index.DEFAULTS, *package_index.FURTHER):
        monkeypatch.delenv(name, raising=False)


def listed(environment: dict[str, str]) -> list[str]:
    return [str(each) for each in package_index.entries(environment)]


def test_without_a_word_of_the_caller_it_is_the_public_index_with_its_files() -> None:
    assert listed({}) == ["pypi.org:443", "files.pythonhosted.org:443"]
    assert package_index.variables({}) == {}


def test_the_callers_own_indexes_take_its_place_and_further_ones_are_added() -> None:
    assert listed(OWN) == [
        "packages.example:8443",
        "fourth.example:443",
        "other.example:80",
        "third.example:443",
    ]
    further = {"PIP_EXTRA_INDEX_URL": "http://other.example/simple"}
    assert listed(further) == [*package_index.PUBLIC, "other.example:80"]


def test_a_container_is_told_where_they_are_and_no_password() -> None:
    told = package_index.variables(OWN)

    assert told["UV_DEFAULT_INDEX"] == "https://packages.example:8443/simple/"
    assert told["UV_INDEX"] == "named=https://fourth.example/simple"
    assert "secret" not in str(told)


def test_an_index_that_is_no_host_is_refused_in_one_line() -> None:
    with pytest.raises(errors.InvalidOption, match=r"UV_DEFAULT_INDEX"):
        package_index.entries({"UV_DEFAULT_INDEX": "https://packages.example:99999/"})


def test_the_option_makes_a_way_out_to_the_index_and_to_what_is_allowed_besides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", OWN["UV_DEFAULT_INDEX"])
    made = policy.plan("program", allow_from="requirements", allow="a.example:80", env=["A=1"])

    assert made.network == "bridge"
    assert [str(each) for each in made.allow] == ["packages.example:8443", "a.example:80"]
    assert dict(made.env) == {
        "UV_DEFAULT_INDEX": "https://packages.example:8443/simple/", "A": "1",
    }  # fmt: skip
    assert "--allow-from" in made.sources["allow"]
    assert policy.recorded(policy.record(made)) == made


@pytest.mark.parametrize("network", ["none", "class"])
def test_it_is_an_error_where_nothing_leads_out(network: str) -> None:
    with pytest.raises(errors.InvalidOption, match=r"--allow-from"):
        policy.plan("program", allow_from="requirements", network=network)


def test_a_notebook_gets_the_index_only_within_the_ceilings(tmp_path: Path) -> None:
    ceilings = {"network": ["*", "bridge"], "allow": ["a.example:80"]}
    read = settings.read_options(ceilings, "ceiling", settings.CEILINGS)
    known = {name: settings.Ceiling(value, f"ceiling.{name}") for name, value in read.items()}
    within = settings.Settings(str(tmp_path), (), known)

    with pytest.raises(errors.NotAllowed, match=r"pypi\.org"):
        policy.plan(settings.MAGIC, within=within, allow_from="requirements")

"""Who may ask for which network, and which options go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sandbox_kernel import policy, settings
from sandbox_kernel.errors import InvalidOption, NotAllowed
from sandbox_kernel.settings import Ceiling, Layer, Settings


def within(tmp_path: Path, **ceilings: Any) -> Settings:
    read = settings.read_options(ceilings, "ceiling", settings.CEILINGS)
    known = {name: Ceiling(value, f"ceiling.{name}") for name, value in read.items()}
    return Settings(str(tmp_path), (), known)


def plan(tmp_path: Path, source: str = settings.COMMAND_LINE, **options: Any) -> Any:
    ceilings = options.pop("ceilings", {})
    return policy.plan(source, within=within(tmp_path, **ceilings), **options)


def test_a_list_alone_means_a_way_out(tmp_path: Path) -> None:
    made = plan(tmp_path, allow=["pypi.org:443", "10.0.0.0/8:22"])

    assert made.network == "bridge"
    assert [str(entry) for entry in made.allow] == ["pypi.org:443", "10.0.0.0/8:22"]
    assert policy.recorded(policy.record(made)) == made


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({"network": "class", "allow": "a.org"}, "with `--network bridge`; this one is `class`"),
        ({"network": "none", "allow": "a.org"}, "with `--network bridge`; this one is `none`"),
        ({"publish": "80:80"}, "with `--network bridge or NAME`; this one is `none`"),
        ({"network": "host", "publish": "80:80"}, "this one is `host`"),
        ({"network": "container:db", "bandwidth": "1mbit"}, "this one is `container:db`"),
        ({"network": "class", "bandwidth": "1mbit", "cap_add": "NET_ADMIN"}, "without `--cap-add"),
        ({"network": "class", "latency": "1ms", "cap_add": "ALL"}, "without `--cap-add"),
    ],
)
def test_what_only_some_networks_have_is_refused_with_others(
    tmp_path: Path, options: dict[str, Any], needed: str
) -> None:
    with pytest.raises(InvalidOption) as refused:
        plan(tmp_path, **options)

    assert needed in str(refused.value)


def test_a_list_in_settings_waits_for_a_network_that_has_one(tmp_path: Path) -> None:
    values = settings.read_options({"allow": ["a.org:443"], "network": "bridge"}, "config file x")
    over = Settings(str(tmp_path), (Layer("config file x", False, values),))

    assert policy.plan(settings.COMMAND_LINE, within=over, network="none").allow == ()
    assert len(policy.plan(settings.COMMAND_LINE, within=over).allow) == 1


@pytest.mark.parametrize("source", [settings.MAGIC, settings.NOTEBOOK, settings.KERNELSPEC])
@pytest.mark.parametrize(
    "options",
    [
        {"network": "bridge"},
        {"network": "host"},
        {"network": "container:db"},
        {"allow": "pypi.org:443"},
        {"network": "class", "publish": "0.0.0.0:80:80"},
        {"network": "class", "publish": "10.0.0.1:80:80"},
        {"network_range": "10.9.0.0/16"},
        {"network_hardware": "02:00"},
    ],
)
def test_who_does_not_speak_for_the_user_gets_no_way_out(
    tmp_path: Path, source: str, options: dict[str, Any]
) -> None:
    with pytest.raises(NotAllowed):
        plan(tmp_path, source, **options)


def test_it_may_connect_its_containers(tmp_path: Path) -> None:
    made = plan(tmp_path, settings.MAGIC, network="class", publish="8080:80", bandwidth="1mbit")

    assert (made.network, str(made.publish[0])) == ("class", "127.0.0.1:8080:80")


OPEN = {"network": ["*", "bridge", "container:db-*"]}


@pytest.mark.parametrize(
    ("ceilings", "options", "allowed"),
    [
        (OPEN, {"network": "bridge"}, True),
        (OPEN, {"network": "container:db-1"}, True),
        (OPEN, {"network": "container:web"}, False),
        (OPEN, {"network": "host"}, False),
        ({"network": ["class-*"]}, {"network": "class-a"}, True),
        ({"network": ["class-*"]}, {"network": "home"}, False),
        (OPEN, {"allow": "anything.example:443"}, True),
        (OPEN, {"allow": "10.0.0.5:443"}, False),
        (OPEN, {"allow": "169.254.169.254:80"}, False),
        (OPEN | {"allow": ["*.pypi.org:443"]}, {"allow": "a.pypi.org:443"}, True),
        (OPEN | {"allow": ["*.pypi.org:443"]}, {"allow": "*.b.pypi.org:443"}, True),
        (OPEN | {"allow": ["*.pypi.org:443"]}, {"allow": "pypi.org:443"}, False),
        (OPEN | {"allow": ["*.pypi.org:443"]}, {"allow": "a.pypi.org"}, False),
        (OPEN | {"allow": ["*.pypi.org:443"]}, {"allow": "udp:a.pypi.org:443"}, False),
        (OPEN | {"allow": ["*.pypi.org:443"]}, {"allow": "9.9.9.9:443"}, False),
        (OPEN | {"allow": ["10.0.0.0/8:1-99"]}, {"allow": "10.2.0.0/16:22"}, True),
        (OPEN | {"allow": ["10.0.0.0/8:1-99"]}, {"allow": "0.0.0.0/0:22"}, False),
    ],
)
def test_a_ceiling_opens_what_it_covers(
    tmp_path: Path, ceilings: dict[str, Any], options: dict[str, Any], allowed: bool
) -> None:
    if allowed:
        plan(tmp_path, settings.MAGIC, ceilings=ceilings, **options)
    else:
        with pytest.raises(NotAllowed):
            plan(tmp_path, settings.MAGIC, ceilings=ceilings, **options)


def test_with_a_ceiling_a_notebook_that_names_nothing_gets_what_it_covers(tmp_path: Path) -> None:
    ceilings = OPEN | {"allow": ["pypi.org:443"]}

    bound = plan(tmp_path, settings.MAGIC, ceilings=ceilings, network="bridge")
    own = plan(tmp_path, settings.COMMAND_LINE, ceilings=ceilings, network="bridge")

    assert [str(entry) for entry in bound.allow] == ["pypi.org:443"]
    assert own.allow == ()


def test_a_live_container_gets_more_on_its_list_within_the_ceilings(tmp_path: Path) -> None:
    over = within(tmp_path, network=["bridge"], allow=["*.org:443"])
    made = policy.plan(settings.MAGIC, within=over, allow="a.org:443")

    changed = policy.change_network(made, within=over, allow="b.org:443", bandwidth="1mbit")

    assert [str(entry) for entry in changed.allow] == ["a.org:443", "b.org:443"]
    assert changed.bandwidth == 1_000_000
    with pytest.raises(NotAllowed):
        policy.change_network(made, within=over, allow="c.com:443")
    with pytest.raises(InvalidOption, match="one of --allow"):
        policy.change_network(made, within=over, memory="1g")

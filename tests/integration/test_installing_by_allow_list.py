"""Packages from an index on the allow-list; all else from the same cell is dropped, and shown."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import network_world as world
import pytest
import wheels
from network_world import World
from ordinary_user import OrdinaryUser

pytestmark = pytest.mark.root  # it makes the namespaces, also for the ordinary user
INDEX = "packages.example"
URL, NAMED = f"http://{INDEX}/simple/", "UV_DEFAULT_INDEX"
CELL = f"""
import os, subprocess, sys, urllib.request
made = subprocess.run(
    ["uv", "pip", "install", "--quiet", "--no-config", "--target", "/tmp/site", "--no-deps",
     "--python", sys.executable, "greeting"],
    env={{"UV_CACHE_DIR": "/tmp/uv", "HOME": "/tmp", **os.environ}},
)
sys.path.insert(0, "/tmp/site")
import greeting
print("installed", greeting.version)
for url in ("http://other.example/", "http://{world.OTHER}/", "http://{world.PRIVATE[0]}/",
            "http://{INDEX}:8080/"):
    try:
        urllib.request.urlopen(url, timeout=5)
        print("reached", url)
    except OSError as error:
        print("kept out of", url)
"""


@pytest.fixture(params=["root", "ordinary"])
def user(request: pytest.FixtureRequest) -> OrdinaryUser | None:
    found: OrdinaryUser | None = None
    if request.param == "ordinary":
        found = request.getfixturevalue("ordinary_user")
    return found


@pytest.fixture
def around(tmp_path: Path) -> Iterator[World]:
    """An index of packages with one in it, and hosts that are not allowed."""
    folder = tmp_path / "simple" / "greeting"
    folder.mkdir(parents=True)
    wheels.make(folder, "greeting", "2.5")
    with World() as made:
        made.site(world.INDEX, tmp_path)
        made.name(INDEX, world.INDEX)
        made.name("other.example", world.OTHER)
        yield made


def test_only_the_index_on_the_list_is_reached_and_what_was_dropped_is_shown(
    around: World, user: OrdinaryUser | None
) -> None:
    """Root takes the index that his environment names, the ordinary user names it himself."""

    def run(*words: str) -> str:
        python = user.python if user else sys.executable
        argv = ["/usr/bin/env", f"{NAMED}={URL}", python, "-m", "sandbox_kernel.cli.main", *words]
        command = around.command(user.command(argv) if user else argv)
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    by_hand = ["--allow", f"{INDEX}:80", "--env", f"{NAMED}={URL}"]
    listed = by_hand if user else ["--allow-from", "requirements"]
    words = [*listed, "--keep", "--name", "installing"]
    try:
        said = run("run", *words, "host", "python3", "-c", CELL).splitlines()
        facts = json.loads(run("net", "show", "--format", "json", "installing"))
        shown = run("net", "show", "installing")
    finally:
        run("rm", "--force", "installing")
        run("pool", "stop")

    assert said[0] == "installed 2.5"
    assert len(said) == 5
    assert not [line for line in said if line.startswith("reached")]
    assert around.addresses() == {world.INDEX}
    assert set(around.asked()) == {INDEX}
    assert {(drop["destination"], drop["port"], drop["reason"]) for drop in facts["drops"]} == {
        (world.OTHER, 80, "not-allowed"),
        (world.PRIVATE[0], 80, "private"),
        (world.INDEX, 8080, "not-allowed"),
    }
    outcomes = {each["name"]: each["outcome"] for each in facts["asked"] if each["kind"] == "A"}
    assert outcomes == {INDEX: "answered", "other.example": "not on the allow-list"}
    assert f"{world.OTHER}:80" in shown
    assert "not on the allow-list" in shown

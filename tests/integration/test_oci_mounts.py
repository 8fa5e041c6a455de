"""The OCI command line: what is mounted, seen from inside and from the machine around it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from commands import COMMAND
from oci_bundles import Bundle

# A mount namespace whose mounts all have peers, as systemd makes them, and what is mounted in it
# before and after a command. The command's own status is the script's.
SHARED = """
mount --make-rshared /
cat /proc/self/mountinfo >"$1/before"
folder=$1; shift
"$@"
status=$?
cat /proc/self/mountinfo >"$folder/after"
exit $status
"""


def on_a_shared_machine(folder: Path, argv: list[str]) -> subprocess.CompletedProcess[str]:
    """Run it where `/` is shared; what it mounted may not be left there."""
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", SHARED, "sh", str(folder), *argv],
        capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (folder / "after").read_text() == (folder / "before").read_text()
    return done


def test_a_machine_whose_mounts_are_shared_sees_none_of_a_container(
    bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "source").mkdir()
    config = bundle.config("grep", "-c", "shared:", "/proc/self/mountinfo")
    config["mounts"] += [
        {"destination": "/bound", "type": "bind", "source": str(tmp_path / "source"),
         "options": ["rbind"]},
        {"destination": "/bound/in", "type": "tmpfs", "source": "tmpfs"},
    ]  # fmt: skip
    bundle.write(config)
    (tmp_path / "source/in").mkdir()
    argv = [*bundle.argv, "run", "--bundle", str(bundle.folder), "one"]
    done = on_a_shared_machine(tmp_path, argv)
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.parametrize("more", [(), ("--strict",)])
def test_the_embedded_runtime_leaves_none_there_either(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    (tmp_path / "source").mkdir()
    argv = [*COMMAND, "run", *more, "--volume", f"{tmp_path}/source:/bound", "host", "sh", "-c",
            "grep -c shared: /proc/self/mountinfo"]  # fmt: skip
    done = on_a_shared_machine(tmp_path, argv)
    assert (done.stdout, done.stderr) == ("0\n", "")


# A machine as above, whose own mounts a script changes while a container runs: $1 is a folder.
AND_THEN = """
mount --make-rshared /
folder=$1; shift
"$@" &
while ! [ -e "$folder/source/ready" ]; do sleep 0.05; done
mkdir "$folder/source/late" && mount -t tmpfs outside "$folder/source/late"
touch "$folder/source/late/seen"
touch "$folder/source/go"
wait $!
status=$?
cat /proc/self/mountinfo >"$folder/after"
umount "$folder/source/late"
exit $status
"""
INSIDE = """
touch $1/ready
while ! [ -e $1/go ]; do sleep 0.05; done
mkdir $1/mine && mount -t tmpfs inside $1/mine
test -e $1/late/seen && echo sees
"""


@pytest.mark.parametrize(
    ("options", "sees", "shows"),
    [
        (["rbind"], True, False),
        (["rbind", "rslave"], True, False),
        (["bind", "slave"], True, False),
        (["rbind", "rprivate"], False, False),
        (["bind", "private"], False, False),
        (["rbind", "unbindable"], False, False),
        (["rbind", "rshared"], True, True),
        (["bind", "shared"], True, True),
    ],
)
def test_what_is_mounted_later_goes_on_as_the_options_say(
    bundle: Bundle, tmp_path: Path, options: list[str], sees: bool, shows: bool
) -> None:
    (tmp_path / "source").mkdir()
    config = may_mount(bundle.config("sh", "-c", INSIDE, "sh", "/bound"))
    config["mounts"].append(
        {"destination": "/bound", "source": str(tmp_path / "source"), "options": options}
    )
    bundle.write(config)
    argv = [*bundle.argv, "run", "--bundle", str(bundle.folder), "one"]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", AND_THEN, "sh", str(tmp_path), *argv],
        capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.stdout == "sees\n", done.stderr) == (sees, "")
    mounted = [line.split()[4] for line in (tmp_path / "after").read_text().splitlines()]
    assert (f"{tmp_path}/source/mine" in mounted) is shows


def may_mount(config: dict[str, Any]) -> dict[str, Any]:
    for held in config["process"]["capabilities"].values():
        held.append("CAP_SYS_ADMIN")
    return config


@pytest.mark.parametrize(
    ("word", "field", "sees"),
    [
        (None, "", False),
        ("private", "", False),
        ("rprivate", "", False),
        ("unbindable", "unbindable", False),
        ("shared", "shared:", False),
        ("slave", "master:", True),
        ("rslave", "master:", True),
    ],
)
def test_the_root_goes_on_as_it_says(
    bundle: Bundle, tmp_path: Path, word: str | None, field: str, sees: bool
) -> None:
    script = "grep -E '^([^ ]+ ){4}/ ' /proc/self/mountinfo >/source/root;" + INSIDE
    config = may_mount(bundle.config("sh", "-c", script, "sh", "/source"))
    if word is not None:
        config["linux"]["rootfsPropagation"] = word
    source = bundle.rootfs / "source"
    source.mkdir()
    (tmp_path / "source").symlink_to(source)
    bundle.write(config)
    # The root is a mount of the machine, so that what is mounted below it is seen there.
    script = f'mount --bind "{bundle.rootfs}" "{bundle.rootfs}"' + AND_THEN
    argv = [*bundle.argv, "run", "--bundle", str(bundle.folder), "one"]
    try:
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path), *argv],
            capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        root = (source / "root").read_text().split()
    finally:
        subprocess.run(["rm", "-r", source], check=True)
    assert (done.stdout == "sees\n", done.stderr) == (sees, "")
    optional = root[6 : root.index("-")]
    assert [each for each in optional if field and each.startswith(field)] or optional == []


@pytest.mark.parametrize("new_user", [False, True])
def test_a_bind_mount_shows_files_with_the_ids_of_its_map(
    bundle: Bundle, tmp_path: Path, new_user: bool
) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "file").touch()
    os.chown(tmp_path / "file", 3, 4)
    maps = [{"containerID": 0, "hostID": 70000, "size": 10}]
    config = bundle.config("stat", "-c", "%u:%g", "/bound/file", "/plain/file", "/by/file")
    mount = {"destination": "/bound", "source": str(tmp_path), "uidMappings": maps,
             "gidMappings": maps}  # fmt: skip
    config["mounts"] += [
        {**mount, "options": ["bind", "idmap"]},
        {"destination": "/plain", "source": str(tmp_path), "options": ["bind"]},
        {**mount, "destination": "/by", "options": ["rbind", "ridmap"]},
    ]
    if not new_user:
        assert bundle.output(config).split() == ["70003:70004", "3:4", "70003:70004"]
        return
    config["linux"]["namespaces"].append({"type": "user"})
    config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = maps
    # Of no map of its own are the last: it has the container's.
    del config["mounts"][-1]["uidMappings"], config["mounts"][-1]["gidMappings"]
    assert bundle.output(config).split() == ["3:4", "65534:65534", "3:4"]


def test_what_the_image_has_is_copied_up_into_a_tmpfs(bundle: Bundle) -> None:
    below = bundle.rootfs / "etc/below"
    below.mkdir()
    (below / "file").write_text("of the image\n")
    (below / "file").chmod(0o640)
    (below / "link").symlink_to("file")
    config = bundle.config(
        "sh", "-c", "cat /etc/below/link; stat -c %a /etc/below/file; echo x >/etc/below/file;"
        "grep -c ' /etc/below ' /proc/self/mountinfo; ls /tmp/below",
    )  # fmt: skip
    config["mounts"] += [
        {"destination": "/etc/below", "type": "tmpfs", "options": ["tmpcopyup"]},
        {"destination": "/tmp/below", "type": "tmpfs"},
    ]
    assert bundle.output(config) == "of the image\n640\n1\n"
    assert (below / "file").read_text() == "of the image\n"
    subprocess.run(["rm", "-r", below], check=True)

"""Images unpacked by umoci(1) and by us have the same trees, but for a listed difference.

Compared are names, kinds, modes, owners, contents, which names are one file, link targets,
attributes, and times of all that has been unpacked. Ours are looked at as a container sees them,
through an overlay. What differs on purpose: device nodes, which we leave out (corpus C 46). And
overlayfs keeps a file of a lower layer apart from the one that a higher layer links to it: of three
names of one file, that which the higher layer does not mention becomes a file of its own.

The images are made by hand, one point each, and one is real: packages of Debian.
"""

from __future__ import annotations

import json
import os
import random
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import layout_of_layers
import pytest
from layer_archives import (
    archive,
    confined,
    diff_id,
    directory,
    extended,
    hard_link,
    long_name,
    member,
    symlink,
)

pytestmark = pytest.mark.root  # umoci keeps owners only as root

LONG = b"long/" + b"n" * 90 + b"/" + b"m" * 200
CAPABILITY = bytes.fromhex("0100000200040000" + "00" * 12)  # CAP_NET_BIND_SERVICE


def sparse_new(major_minor: str) -> bytes:
    """The PAX formats; of GNU's old one umoci knows nothing, and GNU tar is asked elsewhere."""
    version = ((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"))
    if major_minor == "1.0":
        text = b"2\n0\n4\n1048576\n4\n".ljust(512, b"\0")
        head = extended(
            *version, (b"GNU.sparse.name", b"sparse/1.0"), (b"GNU.sparse.realsize", b"2097152")
        )
        return head + member(b"x", text + b"abcdefgh")
    head = extended(
        (b"GNU.sparse.size", b"2097152"),
        (b"GNU.sparse.numblocks", b"2"),
        (b"GNU.sparse.map", b"0,4,1048576,4"),
        (b"GNU.sparse.name", b"sparse/0.1"),
    )
    return head + member(b"x", b"abcdefgh")


BASE = archive(
    directory(b"./", 0o755),
    directory(b"etc", 0o755, mtime=5),
    member(b"etc/passwd", b"root\n", mtime=7),
    directory(b"tmp", 0o1777, mtime=11),
    directory(b"var/mail", 0o2775, gid=8, mtime=13),
    directory(b"home/u", 0o700, uid=1000, gid=1000),
    member(b"home/u/f", b"mine", uid=1000, gid=1000, mode=0o600),
    member(b"bin/su", b"#!", mode=0o4755),
    symlink(b"lib", b"usr/lib"),
    member(b"usr/lib/libc", b"elf"),
    hard_link(b"usr/lib/libc.so", b"usr/lib/libc"),
)

MADE: dict[str, Sequence[bytes]] = {
    "plain": [BASE],
    "empty": [archive()],
    "no end marker": [member(b"f", b"data")],
    "one end block": [member(b"f", b"data") + bytes(512)],
    "root with a mode": [archive(directory(b"./", 0o711, uid=5, gid=6, mtime=3), member(b"f"))],
    "file over file": [BASE, archive(member(b"etc/passwd", b"other\n", mode=0o640, gid=4))],
    "folder over file": [BASE, archive(directory(b"etc/passwd"), member(b"etc/passwd/x"))],
    "file over folder": [BASE, archive(member(b"home", b"now a file"))],
    "link over folder": [BASE, archive(symlink(b"home", b"/tmp"))],
    "folder over link": [BASE, archive(directory(b"lib", 0o750), member(b"lib/new"))],
    "through a link": [BASE, archive(member(b"lib/new", b"in usr/lib"))],
    "through an absolute link": [BASE, archive(symlink(b"l", b"/etc")), archive(member(b"l/x"))],
    "whiteout": [BASE, archive(member(b"etc/.wh.passwd"), member(b".wh.home"))],
    "whiteout and again": [
        BASE,
        archive(member(b".wh.home")),
        archive(directory(b"home/v", 0o700), member(b"home/v/x")),
    ],
    "whiteout and new folder": [BASE, archive(member(b".wh.home"), member(b"home/new"))],
    "new folder and whiteout": [BASE, archive(member(b"home/new"), member(b".wh.home"))],
    "opaque": [BASE, archive(directory(b"etc"), member(b"etc/.wh..wh..opq"), member(b"etc/x"))],
    "opaque last": [BASE, archive(member(b"etc/x"), member(b"etc/.wh..wh..opq"))],
    "opaque root": [BASE, archive(member(b".wh..wh..opq"), member(b"usr/new"), member(b"x"))],
    "no folder entries": [BASE, archive(member(b"tmp/x", b"1"), member(b"var/mail/y", gid=8))],
    "link into lower": [BASE, archive(hard_link(b"etc/passwd2", b"etc/passwd"))],
    "hard link to link": [archive(symlink(b"a", b"nowhere"), hard_link(b"b", b"a"))],
    "same name twice": [
        archive(
            member(b"a", b"1"),
            hard_link(b"b", b"a"),
            member(b"a", b"2"),
            directory(b"d"),
            member(b"d/x"),
            symlink(b"d", b"elsewhere"),
            member(b"e", b"x"),
            directory(b"e"),
            member(b"e/y"),
        )
    ],
    "long names": [
        archive(
            long_name(LONG) + member(LONG, b"gnu"),
            extended((b"path", LONG + b"2")) + member(b"x", b"pax"),
            member(b"f" * 100, b"ustar", prefix=b"p" * 100),
            long_name(b"t" * 300, b"K") + symlink(b"link", b"short"),
            extended((b"linkpath", b"s" * 300)) + symlink(b"link2", b"short"),
        )
    ],
    "not utf-8": [archive(member(b"caf\xe9"), member("名字".encode()), member(b"new\nline"))],
    "attributes": [
        archive(
            extended((b"SCHILY.xattr.user.one", b"1"), (b"SCHILY.xattr.user.two", b"\0\n="))
            + member(b"file", b"x"),
            extended((b"SCHILY.xattr.user.folder", b"1")) + directory(b"folder"),
            extended((b"SCHILY.xattr.security.capability", CAPABILITY))
            + member(b"ping", b"#!", mode=0o755),
        )
    ],
    "attributes below": [
        archive(extended((b"SCHILY.xattr.user.folder", b"1")) + directory(b"folder", 0o700, uid=3)),
        archive(member(b"folder/x")),
    ],
    "sparse": [archive(sparse_new("0.1"), sparse_new("1.0"))],
    "times": [
        archive(
            extended((b"mtime", b"1234567890.123456789")) + member(b"fine", b"x"),
            extended((b"mtime", b"-5.5")) + member(b"before", b"x"),
            member(b"later", b"x", mtime=(1 << 32) + 5),
            extended((b"mtime", b"99.5")) + symlink(b"l", b"x"),
            extended((b"mtime", b"100.25")) + directory(b"d"),
            member(b"d/x"),
        )
    ],
    "large ids": [
        archive(
            member(b"f", uid=65534, gid=65535),
            extended((b"uid", b"40000"), (b"gid", b"50000")) + member(b"g"),
            directory(b"d", uid=12345, gid=54321),
            symlink(b"l", b"x"),
        )
    ],
    "special bits": [
        archive(
            directory(b"sticky", 0o1777),
            directory(b"setgid", 0o2755, gid=7),
            member(b"setgid/f", gid=0),
            directory(b"setgid/d", 0o755, gid=0),
            symlink(b"setgid/l", b"f"),
            member(b"su", b"x", mode=0o6755, uid=1, gid=2),
            member(b"none", b"x", mode=0),
            directory(b"closed", 0),
            member(b"closed/f", b"x"),
            member(b"pipe", kind=b"6", mode=0o620),
        )
    ],
    "old formats": [
        archive(
            member(b"v7", b"x", magic=b"\0" * 8),
            member(b"folder/", b"", kind=b"\0", magic=b"\0" * 8),
            member(b"gnu", b"x", magic=b"ustar  \0"),
        )
    ],
    "three layers": [
        BASE,
        archive(member(b"etc/b", b"2"), member(b"bin/.wh.su"), directory(b"tmp", 0o700)),
        archive(member(b"etc/c", b"3"), member(b"bin/su", b"again"), member(b"usr/.wh.lib")),
    ],
}
RANDOM = 12
PACKAGES = "base-passwd,login,mount,passwd,tzdata"


def random_layers(seed: int) -> list[bytes]:
    """Three layers with few names, so that each meets what the others left there."""
    chance = random.Random(seed)
    names = [b"a", b"b", b"a/c", b"a/d", b"b/c", b"a/c/e", b"a/c/f", b"b/c/e"]
    layers = []
    kinds: dict[bytes, str] = {}
    for _ in range(3):
        members = []
        files: list[bytes] = []
        for name in chance.choices(names, k=8):
            parents = [name[:at] for at in range(len(name)) if name[at : at + 1] == b"/"]
            if any(kinds.get(parent, "folder") != "folder" for parent in parents):
                continue  # below a file; umoci and we refuse it
            kind = chance.choice(("file", "folder", "folder", "link", "hard", "gone"))
            if kind == "gone":
                above, _, last = name.rpartition(b"/")
                members.append(member((above + b"/" if above else b"") + b".wh." + last))
                continue  # it may be of this layer, and is still taken to be there
            if kind == "hard":
                still = [
                    file
                    for file in files
                    if kinds.get(file) == "file" and not (file + b"/").startswith(name + b"/")
                ]
                if not still:
                    continue
                members.append(hard_link(name, chance.choice(still)))
                kind = "file"
            elif kind == "file":
                owner = chance.randrange(3)
                members.append(member(name, b"%d" % seed, uid=owner, mtime=chance.randrange(9)))
            elif kind == "link":
                members.append(symlink(name, b"../gone"))
            else:
                mode = chance.choice((0o700, 0o755))
                members.append(directory(name, mode, mtime=chance.randrange(9)))
            if kind != "folder":
                for below in [other for other in kinds if other.startswith(name + b"/")]:
                    del kinds[below]
            if kind == "file":
                files.append(name)
            kinds[name] = kind
        layers.append(archive(*members))
    return layers


# Prints a tree as JSON: of the folder argv[1], or of the layers argv[1:], mounted one on the other.
LISTING = r"""
import ctypes, hashlib, json, os, stat, sys
def mounted(layers, place):
    libc = ctypes.CDLL(None, use_errno=True)
    os.chdir("/")
    options = "userxattr,lowerdir=" + ":".join(reversed(layers))
    if libc.mount(b"overlay", place.encode(), b"overlay", 1, options.encode()):
        raise OSError(ctypes.get_errno(), "mount")
def listing(root):
    found, files = {}, {}
    for above, folders, names in os.walk(os.fsencode(root)):
        for name in [*folders, *names] + ([b"."] if above == os.fsencode(root) else []):
            path = os.path.join(above, name)
            s = os.lstat(path)
            entry = {"mode": oct(s.st_mode), "owner": [s.st_uid, s.st_gid], "time": s.st_mtime_ns}
            if stat.S_ISLNK(s.st_mode):
                entry["link"] = os.readlink(path).hex()
            if stat.S_ISREG(s.st_mode):
                entry["content"] = hashlib.sha256(open(path, "rb").read()).hexdigest()
            if not stat.S_ISDIR(s.st_mode) and s.st_nlink > 1:
                files.setdefault(s.st_ino, []).append(path)
            entry["xattrs"] = {
                key: os.getxattr(path, key, follow_symlinks=False).hex()
                for key in os.listxattr(path, follow_symlinks=False)
                if not key.startswith("user.overlay.")
            }
            found[os.path.relpath(path, os.fsencode(root)).hex()] = entry
    for same in files.values():
        same = sorted(os.path.relpath(p, os.fsencode(root)).hex() for p in same)
        for path in same[1:] and same:
            found[path]["same"] = same
    return found
trees = json.load(sys.stdin)
place = sys.argv[1]
told = {}
for name, layers in trees.items():
    if len(layers) == 1:
        told[name] = listing(layers[0])
    else:
        mounted(layers, place)
        told[name] = listing(place)
        ctypes.CDLL(None).umount2(place.encode(), 2)
print(json.dumps(told))
"""


def listings(trees: dict[str, list[str]], place: Path) -> dict[str, dict[str, object]]:
    """What is in each tree, in a mount namespace of its own."""
    place.mkdir()
    done = subprocess.run(
        ["/usr/bin/unshare", "--mount", sys.executable, "-I", "-c", LISTING, place],
        input=json.dumps(trees),
        capture_output=True,
        text=True,
        check=True,
    )
    told: dict[str, dict[str, object]] = json.loads(done.stdout)
    return told


def unpack_ours(layers: Sequence[bytes], place: Path) -> list[str]:
    made: list[Path] = []
    for number, layer in enumerate(layers):
        folder = place / str(number)
        folder.mkdir(parents=True)
        confined(layer, folder, parents=made, said=diff_id(layer))
        made.append(folder)
    return [str(folder) for folder in made]


def both(images: dict[str, Sequence[bytes]], tmp_path: Path) -> tuple[dict, dict]:  # type: ignore[type-arg]
    """The trees of all images by umoci and by us."""
    tags = {name: f"i{number}" for number, name in enumerate(images)}
    tmp_path.mkdir()
    layout = tmp_path / "layout"
    layout_of_layers.write(layout, {tags[name]: layers for name, layers in images.items()})

    def umoci(name: str) -> list[str]:
        folder = tmp_path / "umoci" / tags[name]
        folder.parent.mkdir(exist_ok=True)
        argv = ["umoci", "raw", "unpack", "--image", f"{layout}:{tags[name]}", str(folder)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (name, done.stderr)
        return [str(folder)]

    def ours(name: str) -> list[str]:
        return unpack_ours(images[name], tmp_path / "ours" / tags[name])

    def trees(unpack: Callable[[str], list[str]]) -> dict[str, list[str]]:
        with ThreadPoolExecutor(2) as pool:
            return dict(zip(images, pool.map(unpack, images), strict=True))

    theirs = listings(trees(umoci), tmp_path / "their view")
    return theirs, listings(trees(ours), tmp_path / "our view")


def debian(folder: Path) -> list[bytes]:
    """Packages with programs of root's rights, links of both kinds and several owners, and a layer
    that changes some of it."""
    path = folder / "debian.tar"
    words = [
        "mmdebstrap",
        "--quiet",
        "--variant=extract",
        f"--include={PACKAGES}",
        "bookworm",
        path,
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    changed = archive(
        member(b"etc/.wh.default"),
        directory(b"usr/share/zoneinfo/Europe"),
        member(b"usr/share/zoneinfo/Europe/.wh..wh..opq"),
        member(b"usr/share/zoneinfo/Europe/Here", b"TZif"),
        member(b"bin/mount", b"#!", mode=0o755),
        symlink(b"usr/share/doc", b"/nowhere"),
        hard_link(b"usr/bin/passwd-again", b"usr/bin/passwd"),
    )
    return [path.read_bytes(), changed]


def test_images_unpacked_by_umoci_and_by_us_are_the_same(tmp_path: Path) -> None:
    os.umask(0o022)
    images = {**MADE, **{f"random {seed}": random_layers(seed) for seed in range(RANDOM)}}
    assert len(images) >= 30
    started = time.time_ns() - 1_000_000_000
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(debian, tmp_path)  # waits for packages meanwhile
        theirs, ours = both(images, tmp_path / "made")
        real = {"debian": coming.result()}
    for told, more in zip((theirs, ours), both(real, tmp_path / "real"), strict=True):
        told.update(more)
    images.update(real)

    different = {
        name: {
            bytes.fromhex(path): (theirs[name].get(path), ours[name].get(path))
            for path in {*theirs[name], *ours[name]}
            if not same(theirs[name].get(path), ours[name].get(path), started)
        }
        for name in images
    }
    assert {name: paths for name, paths in different.items() if paths} == {}


def same(theirs: object, ours: object, started: int) -> bool:
    """Equal; but umoci makes devices, and leaves directories with the time of the unpacking."""
    if isinstance(theirs, dict) and ours is None:
        return stat.S_IFMT(int(theirs["mode"], 8)) in (stat.S_IFCHR, stat.S_IFBLK)
    if theirs == ours or not (isinstance(theirs, dict) and isinstance(ours, dict)):
        return theirs == ours
    left_so = theirs["time"] >= started > ours["time"]
    return left_so and {**theirs, "time": 0} == {**ours, "time": 0}

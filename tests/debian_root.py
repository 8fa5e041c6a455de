"""A small root file system with apt, dpkg and what they call, of this machine's own files."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

PROGRAMS = (
    "apt-get", "apt-config", "dpkg", "dpkg-deb", "dpkg-query", "dpkg-split", "dpkg-statoverride",
    "tar", "gzip", "sh", "dash", "rm", "cat", "id", "ls", "stat", "chown", "chmod", "install",
    "touch",    "mkdir", "true", "env", "diff", "python3",
)  # fmt: skip
FOLDERS = (
    "etc/apt/apt.conf.d", "etc/apt/preferences.d", "var/lib/dpkg/info", "var/lib/dpkg/updates",
    "var/lib/dpkg/triggers", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial",
    "var/log/apt", "usr/share/dpkg", "tmp", "root", "proc", "sys", "dev", "run", "usr/sbin",
)  # fmt: skip


def make(root: Path) -> Path:
    """Fill the folder; returns it."""
    for name in ("bin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    (root / "usr/sbin").mkdir(parents=True)
    (root / "sbin").symlink_to("usr/sbin")
    for name in FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    programs = [Path(f"/usr/bin/{name}").resolve() for name in PROGRAMS]
    methods = [Path("/usr/lib/apt/methods") / name for name in ("copy", "file", "store")]
    for name, program in zip(PROGRAMS, programs, strict=True):
        shutil.copy(program, root / "usr/bin" / name)
    (root / "usr/lib/apt/methods").mkdir(parents=True)
    for method in methods:
        shutil.copy(method, root / str(method).lstrip("/"))
    # dpkg wants these to be there; none of them has work to do.
    for name in ("ldconfig", "start-stop-daemon"):
        script = root / "usr/sbin" / name
        script.write_text("#!/bin/sh\nexit 0\n")
        script.chmod(0o755)
    shutil.copytree("/usr/share/dpkg", root / "usr/share/dpkg", dirs_exist_ok=True)
    for path in _libraries([*programs, *methods]):
        target = root / "usr" / path.lstrip("/").removeprefix("usr/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    (root / "var/lib/dpkg/status").write_text("")
    (root / "var/lib/dpkg/available").write_text("")
    (root / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\n_apt:x:42:65534::/nonexistent:/bin/false\n"
        "games:x:5:60::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n"
    )
    (root / "etc/group").write_text("root:x:0:\ngames:x:60:\nstaff:x:50:games\nnogroup:x:65534:\n")
    return root


def make_package(folder: Path) -> Path:
    """A `.deb` whose files and script give things to other users."""
    tree = folder / "greeting"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: greeting\nVersion: 1.0\nArchitecture: all\nMaintainer: A <a@example.org>\n"
        "Description: says hello\n"
    )
    script = tree / "DEBIAN/postinst"
    script.write_text(
        "#!/bin/sh\nset -e\nmkdir -p /var/lib/greeting\nchown games:staff /var/lib/greeting\n"
        "chmod 2750 /var/lib/greeting\n"
    )
    script.chmod(0o755)
    program = tree / "usr/bin/greeting"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho hello from a package\n")
    program.chmod(0o4755)
    made = folder / "greeting_1.0_all.deb"
    subprocess.run(
        ["/usr/bin/dpkg-deb", "--root-owner-group", "--build", str(tree), str(made)],
        check=True, capture_output=True,
    )  # fmt: skip
    shutil.rmtree(tree)
    return made


def _libraries(programs: list[Path]) -> set[str]:
    told = subprocess.run(
        ["/usr/bin/ldd", *map(str, programs)], capture_output=True, text=True, check=True
    ).stdout
    return set(re.findall(r"(/\S+\.so[.\d]*)", told))

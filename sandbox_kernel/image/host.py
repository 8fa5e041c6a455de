"""The image `host`: this Python environment and what it needs of the system, read-only.

What is in it: /usr (and /lib, /bin ... as this machine has them), the parts of /etc that programs
need to find libraries, certificates, fonts, the locale and the time zone, and the environment of
the running interpreter: its prefix, the prefix of the Python that a virtual environment was made
from, and the folders that its site adds, each at its own path. All of these are read-only, /etc
as a whole too; a mount below /etc makes it one of the container's own.

What is not: homes, /root, /run, /var, /srv, /mnt, the project's folder, nor anything else. A
prefix that lies in a home folder is bound alone, by a descriptor that the launcher opened, under
parents that are made in the container; of the home nothing else is there.
"""

from __future__ import annotations

import hashlib
import os
import site
import sys
import sysconfig
from collections.abc import Iterable
from typing import Any

from sandbox_kernel.image.image import Entry, Image, Tree

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
CONFIGURATION = (
    "alternatives",
    "ca-certificates",
    "debian_version",
    "fonts",
    "gai.conf",
    "ImageMagick-6",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "locale.alias",
    "locale.conf",
    "magic",
    "mime.types",
    "networks",
    "os-release",
    "pki",
    "protocols",
    "rpc",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
)
# Never bound, even where an odd installation has its Python there as a whole.
NEVER_WHOLE = ("/", "/home", "/root", "/run", "/var", "/tmp", "/etc", "/srv", "/mnt", "/media")  # noqa: S108
HOME = "/home/sandbox"
ETC = "/etc/"
OPTIONS = ["ro", "nosuid", "nodev"]

ACCOUNTS = (
    "root:x:0:0:root:/home/sandbox:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
)
GROUP = "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"
HOSTS = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
NSSWITCH = "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n"

DIRECTORIES: tuple[tuple[str, int], ...] = (
    ("/etc", 0o755),
    ("/home", 0o755),
    (HOME, 0o755),
    ("/opt", 0o755),
    ("/proc", 0o755),
    ("/root", 0o755),
    ("/run", 0o755),
    ("/srv", 0o755),
    ("/sys", 0o755),
    ("/dev", 0o755),
    ("/tmp", 0o1777),  # noqa: S108 - of the container
    ("/var", 0o755),
    ("/var/tmp", 0o1777),  # noqa: S108 - of the container
)
FILES = (
    ("/etc/passwd", ACCOUNTS),
    ("/etc/group", GROUP),
    ("/etc/hosts", HOSTS),
    ("/etc/nsswitch.conf", NSSWITCH),
    ("/etc/resolv.conf", ""),
)


def image() -> Image:
    """The image `host` of the running interpreter. Raises OSError if a part can't be read."""
    layout = _Layout()
    for path in SYSTEM:
        layout.add(path)
    for name in CONFIGURATION:
        layout.add(f"/etc/{name}")
    for path in _environment():
        layout.add(path)
    entries: list[Entry] = [
        {"kind": "directory", "path": path, "mode": mode} for path, mode in DIRECTORIES
    ]
    links: list[Entry] = [
        {"kind": "link", "path": path, "target": target}
        for path, target in sorted(layout.links.items())
    ]
    entries += [link for link in links if not link["path"].startswith(ETC)]
    files: list[Entry] = [{"kind": "file", "path": path, "text": text} for path, text in FILES]
    etc: Tree = {
        "destination": "/etc",
        "entries": [*files, *(link for link in links if link["path"].startswith(ETC))],
        "mounts": [_bind(path) for path in sorted(layout.binds) if path.startswith(ETC)],
    }
    text = "\n".join([sys.version, *sorted(layout.binds), *sorted(layout.links)])
    search = ":".join(
        dict.fromkeys(
            (os.path.dirname(sys.executable), "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin")
        )
    )
    variables = [f"PATH={search}", f"HOME={HOME}", "LANG=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1"]
    if sys.prefix != sys.base_prefix:
        variables.append(f"VIRTUAL_ENV={sys.prefix}")
    return Image(
        reference="host",
        digest="sha256:" + hashlib.sha256(text.encode()).hexdigest(),
        mounts=tuple(_bind(path) for path in sorted(layout.binds) if not path.startswith(ETC)),
        trees=(etc,),
        entries=tuple(entries),
        config={"Env": variables, "WorkingDir": HOME, "Cmd": [sys.executable]},
        interpreter=sys.executable,
    )


def _bind(path: str) -> dict[str, Any]:
    return {"destination": path, "type": "bind", "source": path, "options": OPTIONS}


def _environment() -> Iterable[str]:
    """Folders of the interpreter, as it names them itself; links on the way are kept as links."""
    paths = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix]
    paths += [path for name, path in sysconfig.get_paths().items() if name != "data"]
    paths += [os.path.dirname(sys.executable), os.path.dirname(os.path.realpath(sys.executable))]
    if site.ENABLE_USER_SITE:
        paths.append(site.getusersitepackages())
    return paths


class _Layout:
    """Which paths are bound and which links are made, so that each path resolves as outside."""

    def __init__(self) -> None:
        self.binds: set[str] = set()
        self.links: dict[str, str] = {}

    def add(self, path: str) -> None:
        """Make a path of the host visible, with the links that lead to it."""
        for _ in range(40):
            path = os.path.normpath(path)
            if not os.path.lexists(path) or self._is_inside(path):
                return
            link = self._first_link(path)
            if link is None:
                self._bind(path)
                return
            target = os.readlink(link)
            self.links[link] = target
            rest = path[len(link) :].lstrip("/")
            path = os.path.join(os.path.dirname(link), target, rest)

    def _first_link(self, path: str) -> str | None:
        """The first component that is a link and is not inside something bound already."""
        at = ""
        for part in path.strip("/").split("/"):
            at = f"{at}/{part}"
            if self._is_inside(at):
                return None
            if os.path.islink(at):
                return at
        return None

    def _is_inside(self, path: str) -> bool:
        return any(path == bind or path.startswith(bind + "/") for bind in self.binds)

    def _bind(self, path: str) -> None:
        if path in NEVER_WHOLE or not os.access(path, os.R_OK):
            return
        inside = {bind for bind in self.binds if bind.startswith(path + "/")}
        self.binds -= inside
        self.binds.add(path)

"""What a user sets for registries: mirrors, plain http, certificates, platform; and for one pull.

The table `[registry]` of the user's own `config.toml` (`c.SandboxRegistry` of the Python file). All
of these widen whom we trust, so a project's, a notebook's or a kernelspec's word is refused.
"""

from __future__ import annotations

import os
import platform as machine
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from sandbox_kernel import grammar, settings
from sandbox_kernel.errors import InvalidOption, shown
from sandbox_kernel.image.registry.limits import Limits
from sandbox_kernel.settings import Kind, Option

# Go's names for what uname(2) calls the machine: GOARCH and GOARM, image-spec "image-index.md".
ARCHITECTURES: Mapping[str, tuple[str, str]] = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "riscv64": ("riscv64", ""),
    "loongarch64": ("loong64", ""),
}
_AUTHORITY = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?"
_URL = re.compile(rf"(https?)://({_AUTHORITY})((?:/[A-Za-z0-9._-]+)*)/?")
_PLATFORM = re.compile(r"([a-z0-9]+)/([a-z0-9_]+)(?:/([a-z0-9.]+))?")


@dataclass(frozen=True)
class Wanted:
    """Which of an index's images: `os/architecture[/variant]`."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


@dataclass(frozen=True)
class Mirror:
    """Where else the images of one registry are, asked before it."""

    registry: str
    scheme: str
    authority: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"{self.registry}={self.scheme}://{self.authority}{self.prefix}"


def authority(value: object, option: str) -> str:
    """`HOST[:PORT]` in lower case."""
    if not isinstance(value, str) or not re.fullmatch(_AUTHORITY, value):
        _refuse(option, value, "HOST or HOST:PORT")
    return value.lower()


def mirror(value: object, option: str) -> Mirror:
    """`REGISTRY=https://HOST[:PORT][/PREFIX]`; a table of pairs comes as tuples."""
    name, url = value if isinstance(value, tuple) else str(value).partition("=")[::2]
    found = _URL.fullmatch(str(url))
    if found is None:
        _refuse(option, value, "REGISTRY=https://HOST[:PORT][/PREFIX]")
    return Mirror(authority(name, option), found[1], found[2].lower(), found[3])


def realm(value: object, option: str) -> tuple[str, str]:
    """`REGISTRY=https://HOST[:PORT]`: who may be given the registry's password for a token."""
    name, url = value if isinstance(value, tuple) else str(value).partition("=")[::2]
    found = _URL.fullmatch(str(url))
    if found is None or found[1] != "https" or found[3]:
        _refuse(option, value, "REGISTRY=https://HOST[:PORT]")
    return authority(name, option), found[2].lower()


def certificate_file(value: object, option: str) -> str:
    """An absolute path of a file with certificates in PEM, or `~/...`."""
    path = os.path.expanduser(value) if isinstance(value, str) else ""
    if not path.startswith("/") or "\0" in path or not path.isprintable():
        _refuse(option, value, "an absolute path of a PEM file")
    return path


def platform(value: object, option: str) -> Wanted:
    """`OS/ARCHITECTURE[/VARIANT]`, in Go's words; only Linux runs here."""
    found = _PLATFORM.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        _refuse(option, value, "OS/ARCHITECTURE[/VARIANT] such as linux/arm64")
    return Wanted(found[1], found[2], found[3] or "")


def _refuse(option: str, value: object, allowed: str) -> NoReturn:
    raise InvalidOption(option, value, allowed)


class SandboxRegistry:
    """What a user can set for pulls and pushes."""

    mirrors = Option(
        Kind("REGISTRY=URL", mirror, identity=lambda item: (item.registry, item.authority)),
        (),
        help="Where a registry's images are looked for first, such as "
        "docker.io=https://mirror.example:5000.",
    )
    plain_http = Option(
        Kind("HOST[:PORT]", authority, identity=str),
        (),
        help="An insecure registry: it may be spoken to in plain http, so that everybody on the "
        "way reads and changes what it says. Loopback may be without this.",
    )
    ca_files = Option(
        Kind("FILE", certificate_file, identity=str),
        (),
        help="Certificates in PEM that are trusted beside those of the system.",
    )
    token_realms = Option(
        Kind("REGISTRY=URL", realm, identity=lambda item: item),
        (),
        help="A host that may be given a registry's password for a token, beside the registry "
        "itself, such as registry.gitlab.com=https://gitlab.com.",
    )
    platform = Option(
        Kind("OS/ARCH", platform),
        None,
        default_text="that of this machine",
        help="Which image is taken of those for many platforms.",
    )
    parallel = Option(
        Kind("NUMBER", lambda v, o: grammar.whole(v, o, least=1, most=16)),
        4,
        unit="layers",
        help="How many layers are fetched at once.",
    )


REGISTRY: Mapping[str, Option] = settings.table(SandboxRegistry)


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Typed values of `SandboxRegistry`, and the limits."""

    mirrors: tuple[Mirror, ...] = ()
    plain_http: tuple[str, ...] = ()
    ca_files: tuple[str, ...] = ()
    token_realms: tuple[tuple[str, str], ...] = ()
    platform: Wanted | None = None
    parallel: int = 4
    limits: Limits = field(default_factory=Limits)

    @property
    def wanted(self) -> Wanted:
        """The platform to choose."""
        return self.platform or of_this_machine()


def of_this_machine() -> Wanted:
    """The platform that this machine runs. Raises InvalidOption on one that has no name here."""
    name = machine.machine()
    if name not in ARCHITECTURES:
        raise InvalidOption("platform", shown(name), "given by `--platform` on this machine")
    return Wanted("linux", *ARCHITECTURES[name])


def load(within: settings.Settings | None = None) -> Configuration:
    """The user's own word. Raises InvalidOption, with file and line."""
    over = within if within is not None else settings.load()
    values: dict[str, object] = {}
    for where, given in over.registry:
        values |= settings.read_options(given, where, REGISTRY, "registry")
    return Configuration(**values)  # type: ignore[arg-type]

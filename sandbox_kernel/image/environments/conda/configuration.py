"""The channels of conda that a user has: names that files may say, and where each of them is.

The table `[conda]` of the user's own `config.toml` (`c.SandboxConda` of the Python file). A channel
is where code comes from, so a project's, a notebook's or a kernelspec's word is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from sandbox_kernel import settings
from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.settings import Kind, Option

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,99}){0,3}")
_ADDRESS = re.compile(r"(?:https?://[A-Za-z0-9\[][^\s\\?#]*|file:///[^\s\\?#]*)")
PRESET = "conda-forge"


class Channel(NamedTuple):
    """A channel: `address` has no slash at its end, and may hold a token of the user's."""

    name: str
    address: str

    def __str__(self) -> str:
        return f"{self.name}={self.address}"


def channel(value: object, option: str) -> Channel:
    """`NAME=ADDRESS`; a table of pairs comes as tuples."""
    name, address = value if isinstance(value, tuple) else str(value).partition("=")[::2]
    address = str(address).rstrip("/")
    fine = isinstance(name, str) and NAME.fullmatch(name) and _ADDRESS.fullmatch(address)
    if not fine or not address.isprintable() or "/../" in f"{address}/":
        allowed = "NAME=https://HOST/CHANNEL, http://HOST/CHANNEL or file:///FOLDER"
        raise InvalidOption(option, value, allowed)
    return Channel(name, address)


class SandboxConda:
    """What a user can set for environments of conda."""

    channels = Option(
        Kind("NAME=URL", channel, identity=lambda item: item.name),
        (Channel(PRESET, f"https://conda.anaconda.org/{PRESET}"),),
        help="What a file of `conda:` may name as a channel, and where that is, such as "
        "team=https://conda.example/team. Beside yours there is conda-forge, unless you give "
        "that name another address.",
    )


CONDA: Mapping[str, Option] = settings.table(SandboxConda)


def channels(within: settings.Settings | None = None) -> dict[str, Channel]:
    """The user's channels by their names. Raises InvalidOption, with file and line."""
    over = within if within is not None else settings.load()
    option = CONDA["channels"]
    found: tuple[Channel, ...] = option.default_value
    for where, given in over.conda:
        values = settings.read_options(given, where, CONDA, "conda")
        found = settings.merge(found, values.get("channels", ()), option.kind)
    return {each.name: each for each in found}


def setting(within: settings.Settings | None = None) -> str:
    """The place where a channel is to be named, for messages."""
    over = within if within is not None else settings.load()
    return f"`[conda.channels]` of `{over.user_file or '~/.config/sandbox-kernel/config.toml'}`"

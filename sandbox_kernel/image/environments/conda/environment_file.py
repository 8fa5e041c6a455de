"""An `environment.yml`: read strictly, as data, with the line of whatever can't be.

    name: analysis            means nothing here, as `prefix` does
    channels:                 names of the user's own channels; the first that has a package counts
      - conda-forge
    dependencies:
      - python=3.12           [CHANNEL::]NAME [VERSION [BUILD]], as conda writes them
      - conda-forge::numpy >=2,<3

Nothing else is known. YAML is read up to its nodes and no further: no tag of it makes an object.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from sandbox_kernel import settings
from sandbox_kernel.errors import ImageError, shown
from sandbox_kernel.image.environments import declared
from sandbox_kernel.image.environments.conda import configuration, rattler
from sandbox_kernel.image.environments.declared import Declared

WITHOUT_MEANING = ("name", "prefix")
NO_DEFAULTS = "nodefaults"
LONGEST_SPEC = 500
MOST_TEXT = 128 << 10
"""Characters: the parser of YAML takes its time."""
REMEDIES = {
    "variables": "give variables to the container: `--env NAME=VALUE`",
    "platforms": "it is made for the image below: leave it out",
}
_SPEC = re.compile(
    r"(?:(?P<channel>[^\s:]+)::)?(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]*)"
    r"(?P<rest>[A-Za-z0-9_.*+!<>=~|,() -]*)"
)


class Line(NamedTuple):
    """A text of the file, and where it stands."""

    text: str
    number: int


def read(reference: str, path: str) -> Declared:
    """What the file declares. Raises ImageError with the line, HostLacks without the extra."""
    rattler.demand(reference)
    return _Reader(reference, path).read()


class _Reader:
    def __init__(self, reference: str, path: str) -> None:
        self._reference = reference
        self._path = path

    def read(self) -> Declared:
        """The one mapping that the file is."""
        import yaml

        text = declared.text_of(self._path, self._reference)
        if len(text) > MOST_TEXT:
            raise self._wrong(1, f"it is longer than {MOST_TEXT} characters")
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except (yaml.YAMLError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            why = getattr(error, "problem", None) or "it is no YAML"
            raise self._wrong(mark.line + 1 if mark else 1, shown(why)) from error
        if not isinstance(root, yaml.MappingNode):
            raise self._wrong(1, "it is no mapping with `dependencies`")
        found: dict[str, Any] = {}
        for key, value in root.value:
            name, number = str(key.value), key.start_mark.line + 1
            if name in found:
                raise self._wrong(number, f"`{shown(name)}` is there twice: write it once")
            if name not in ("channels", "dependencies", *WITHOUT_MEANING):
                remedy = REMEDIES.get(name, "write `channels` and `dependencies`")
                raise self._wrong(number, f"`{shown(name)}` is not known here: {remedy}")
            found[name] = value
        names = [line for line in self._list(found, "channels") if line.text != NO_DEFAULTS]
        known = configuration.channels()
        for line in names:
            self._check_channel(line, known)
        channels = tuple(dict.fromkeys(line.text for line in names)) or (configuration.PRESET,)
        lines = self._list(found, "dependencies")
        if not lines:
            raise self._wrong(1, "it has no `dependencies`: list packages there")
        specs = tuple(self._spec(line, channels) for line in lines)
        return Declared(self._reference, specs, channels=channels)

    def _list(self, found: dict[str, Any], name: str) -> list[Line]:
        """The texts of a list; none where there is no such key, or nothing behind it."""
        import yaml

        node = found.get(name)
        if node is None or (isinstance(node, yaml.ScalarNode) and not node.value):
            return []
        if not isinstance(node, yaml.SequenceNode):
            raise self._wrong(node.start_mark.line + 1, f"`{name}` is no list")
        lines = []
        for item in node.value:
            number = item.start_mark.line + 1
            if isinstance(item, yaml.MappingNode):
                keys = [shown(key.value) for key, _ in item.value]
                if keys == ["pip"]:
                    raise self._wrong(
                        number,
                        "packages of `pip:` are not taken: name those that a channel has, or "
                        "declare all by `packages:` or `requirements:`",
                    )
                raise self._wrong(number, f"`{', '.join(keys)}` is no text")
            if not isinstance(item, yaml.ScalarNode) or not item.value.strip():
                raise self._wrong(number, f"`{name}` holds what is no text")
            lines.append(Line(item.value.strip(), number))
        return lines

    def _check_channel(self, line: Line, known: dict[str, configuration.Channel]) -> None:
        if line.text in known:
            return
        why = f"channel `{shown(line.text)}` is none of yours (`{'`, `'.join(known)}`)"
        if not configuration.NAME.fullmatch(line.text):
            why = f"`{shown(line.text)}` is no name of a channel, and a file can give no address"
        place = configuration.setting(settings.load())
        raise self._wrong(line.number, f"{why}: name it in {place}, if you trust it")

    def _spec(self, line: Line, channels: tuple[str, ...]) -> str:
        found = _SPEC.fullmatch(line.text) if len(line.text) <= LONGEST_SPEC else None
        if found is None:
            raise self._wrong(
                line.number, f"`{shown(line.text)}` is not `[CHANNEL::]NAME [VERSION [BUILD]]`"
            )
        if found["channel"] is not None and found["channel"] not in channels:
            raise self._wrong(
                line.number,
                f"`{shown(found['channel'])}` of `{shown(line.text)}` does not stand under "
                "`channels`: name it there too",
            )
        return " ".join(line.text.split())

    def _wrong(self, number: int, why: str) -> ImageError:
        return ImageError(
            f"read environment `{shown(self._reference)}`: line {number} of `{shown(self._path)}`: "
            f"{why}"
        )

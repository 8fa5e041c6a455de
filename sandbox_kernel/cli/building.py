"""`sandbox-kernel build`: an image from a Containerfile, with what happens told on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

from sandbox_kernel import policy, settings
from sandbox_kernel.arguments import Flag, Parsed
from sandbox_kernel.building import request as requests
from sandbox_kernel.building.events import (
    Event,
    Notice,
    Pulling,
    StepDone,
    StepOutput,
    StepStarted,
)
from sandbox_kernel.cli.verb import Verb
from sandbox_kernel.errors import InvalidOption, NotAllowed

if TYPE_CHECKING:
    from sandbox_kernel.building.events import Listener
    from sandbox_kernel.image.store import Stored

LEAST_SECONDS = 1.0
"""What takes longer is told with its time."""
LIMITS = (
    "memory", "memory_swap", "cpus", "cpuset_cpus", "cpu_shares", "pids_limit", "ulimit",
    "storage_size", "timeout", "network", "allow_from",
)  # fmt: skip
_TAG = Flag("tag", ("--tag", "-t"), "NAME", "The name of the image, such as `tools:1`.")
_FILE = Flag("file", ("--file", "-f"), "FILE", "The Containerfile, `-` for standard input.",
    default="Containerfile or Dockerfile in PATH")  # fmt: skip
_ARGUMENT = Flag("build_arg", ("--build-arg",), "NAME=VALUE", "A value for an ARG.", many=True)
_TARGET = Flag("target", ("--target",), "STAGE", "The stage to build.", default="the last one")
_SECRET = Flag("secret", ("--secret",), "id=NAME,src=FILE",
    "A file, or by env=VARIABLE a variable, for `RUN --mount=type=secret,id=NAME`.",
    many=True)  # fmt: skip
_LABEL = Flag("labels", ("--label",), "KEY=VALUE", "A label of the image.", many=True)
_ALLOW = Flag("allow", ("--allow",), "HOST:PORT",
    "A host of a private network that ADD may fetch from.", many=True)  # fmt: skip
_NO_CACHE = Flag("no_cache", ("--no-cache",), "", "Do every step anew.")
_QUIET = Flag("quiet", ("--quiet", "-q"), "", "Print only the digest at the end.")
FLAGS = (_TAG, _FILE, _ARGUMENT, _TARGET, _SECRET, _LABEL, _ALLOW, _NO_CACHE, _QUIET)


def build(found: Parsed) -> int:
    """Builds, and prints the image's digest on standard output."""
    text = None
    if found.own.get("file") == "-":
        found.own.pop("file")
        text = sys.stdin.read()
    made = perform(found, settings.COMMAND_LINE, text, stream=sys.stderr)
    print(made.digest)
    return 0


def perform(
    found: Parsed,
    source: str,
    text: str | None = None,
    *,
    stream: TextIO,
    within: settings.Settings | None = None,
) -> Stored:
    """The words of `build`, carried out. `text`: the Containerfile itself. Raises as `build`."""
    from sandbox_kernel.building.build import build as carry_out
    from sandbox_kernel.image.store import Store

    own = found.own
    if source not in settings.TRUSTED:
        _hold_to_notebook(own, source)
    arguments = requests.read_arguments(own.get("build_arg", ()))
    asked = requests.BuildRequest(
        context=_context(found, source, text),
        file=own.get("file"),
        text=text,
        name=own.get("tag"),
        target=own.get("target"),
        arguments=arguments,
        secrets=requests.read_secrets(own.get("secret", ())),
        labels=_labels(own.get("labels", ())),
        plan=policy.plan(source, within=within, **found.options),
        allow_image=lambda image: hold(image, source, within=within),
        allow_hosts=_hosts(own.get("allow", ()), source),
        use_cache=not own.get("no_cache"),
        epoch=requests.read_epoch(arguments),
    )
    listener: Listener | None = None if own.get("quiet") else Printer(stream)
    return carry_out(Store.open(), asked, listener)


def hold(image: str, source: str, within: settings.Settings | None = None) -> None:
    """Policy for a base image: that of the image of a container. Raises NotAllowed."""
    policy.plan(source, image=image, within=within)


def _context(found: Parsed, source: str, text: str | None) -> str | None:
    path: str | None = found.rest[0] if found.rest else None
    if path is None:
        if text is None:
            raise InvalidOption("PATH", "nothing", "the folder that is the build's context")
        return None
    if source not in settings.TRUSTED:
        _hold_path(path, source)
    return path


def _hold_path(path: str, source: str) -> None:
    """What a build reads it can give away, as a mount could: the same places are allowed."""
    policy.plan(source, mount=[f"type=bind,source={os.path.abspath(path)},target=/file,readonly"])


def _hold_to_notebook(own: Mapping[str, Any], source: str) -> None:
    """Files and variables of outside are the user's to give. Raises NotAllowed, InvalidOption."""
    if "file" in own:
        _hold_path(own["file"], source)
    for item in own.get("secret", ()):
        fields = dict(part.partition("=")[::2] for part in item.split(","))
        path = fields.get("src", fields.get("source"))
        if path is None:
            allowed = "id=NAME,src=FILE: outside values are the user's to give"
            raise InvalidOption("--secret", item, allowed)
        _hold_path(path, source)
    for item in own.get("build_arg", ()):
        if "=" not in item:
            allowed = "NAME=VALUE: outside values are the user's to give"
            raise InvalidOption("--build-arg", item, allowed)


def _hosts(given: list[str] | tuple[str, ...], source: str) -> frozenset[str]:
    if given and source not in settings.TRUSTED:
        raise NotAllowed("--allow", given[0], "no host of a private network",
            "build on the command line: `sandbox-kernel build`")  # fmt: skip
    return requests.read_hosts(given)


def _labels(given: list[str] | tuple[str, ...]) -> Mapping[str, str]:
    labels = {}
    for item in given:
        key, equals, value = item.partition("=")
        if not key or not equals:
            raise InvalidOption("--label", item, "KEY=VALUE")
        labels[key] = value
    return labels


class Printer:
    """Prints what happens in a build, line by line; parallel stages are told by their names.

    On a terminal a step is there as soon as it begins, elsewhere when something is known of it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._waiting: dict[tuple[str, int], str] = {}
        self._open: tuple[str, int] | None = None
        """The step whose line is written and not ended."""
        self._pulls: dict[str, str] = {}
        self._at_line = True

    def __call__(self, event: Event) -> None:
        """One event."""
        match event:
            case StepStarted():
                line = f"[{event.stage} {event.number}/{event.total}] {event.text}"
                self._waiting[event.stage, event.number] = line
                if self._live:
                    self._begin((event.stage, event.number), line)
            case StepOutput():
                key = event.stage, event.number
                if (line := self._waiting.pop(key, "")) and self._open != key:
                    self._line(line)
                elif line:
                    self._end("")
                self._text(event.text)
            case StepDone():
                self._done(event)
            case Pulling():
                stage = event.progress.stage
                if stage in ("done", "there") and self._pulls.get(event.progress.digest) != stage:
                    self._pulls[event.progress.digest] = stage
                    self._line(f"{event.reference}: {event.progress.digest[7:19]} {stage}")
            case Notice():
                self._line(event.text)

    def _done(self, event: StepDone) -> None:
        key = event.stage, event.number
        line = self._waiting.pop(key, "")
        if not line:
            return
        note = "  (cached)" if event.cached else ""
        if not note and event.seconds >= LEAST_SECONDS:
            note = f"  ({event.seconds:.1f} s)"
        if self._open == key:
            self._end(note)
        else:
            self._line(line + note)

    def _begin(self, key: tuple[str, int], text: str) -> None:
        if not self._at_line:
            self._stream.write("\n")
        self._stream.write(_clean(text))
        self._stream.flush()
        self._open, self._at_line = key, False

    def _end(self, note: str) -> None:
        self._stream.write(note + "\n")
        self._stream.flush()
        self._open, self._at_line = None, True

    def _line(self, text: str) -> None:
        if not self._at_line:
            self._stream.write("\n")
        self._stream.write(_clean(text) + "\n")
        self._stream.flush()
        self._open, self._at_line = None, True

    def _text(self, text: str) -> None:
        self._stream.write(_clean(text.replace("\r\n", "\n").replace("\r", "\n")))
        self._stream.flush()
        self._at_line = text.endswith(("\n", "\r"))


def _clean(text: str) -> str:
    """What comes from a container must not move the cursor or forge a line."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


VERBS = {
    "build": Verb(
        "build [options] PATH",
        "Build an image from a Containerfile and the folder PATH. RUN has the limits of this "
        "folder's settings and no network; steps that are done already come from the cache. "
        "Prints the digest of the image.",
        build,
        FLAGS,
        options=LIMITS,
        most=1,
    ),
}

"""One stage from its FROM to its last instruction: each instruction changes the state."""

from __future__ import annotations

import posixpath
import re
import time
from collections.abc import Callable, Mapping
from functools import singledispatchmethod

from sandbox_kernel.building import cache, copying, running
from sandbox_kernel.building.cache import Result
from sandbox_kernel.building.events import StepDone, StepStarted
from sandbox_kernel.building.stages import PREDEFINED
from sandbox_kernel.building.state import State, timestamp
from sandbox_kernel.building.work import Work
from sandbox_kernel.containerfile import instructions as i
from sandbox_kernel.containerfile import words
from sandbox_kernel.containerfile.parse import parse_trigger
from sandbox_kernel.containerfile.source import Piece
from sandbox_kernel.errors import BuildFailed, ContainerfileError, SandboxError, shown

_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?$", re.IGNORECASE)
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\$?(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\$?)?$")
_SIGNAL = re.compile(r"(SIG)?[A-Z0-9+-]{2,12}$|[0-9]{1,2}$")
MOST_PORTS = 1024
MOST_VARIABLES = 2000
_KERNEL_TREES = ("proc", "sys", "dev")


class Stage:
    """A stage while it is built."""

    def __init__(
        self,
        work: Work,
        name: str,
        state: State,
        *,
        arguments: Mapping[str, str],
        origins: Callable[[Piece | str], State],
    ) -> None:
        self.work = work
        self.name = name
        self.state = state
        self._global = arguments
        self._origins = origins
        self._number = 0
        self._total = 0
        self._cmd_is_own = False
        given = work.request.arguments
        self.state.arguments = {key: given[key] for key in given if key.upper() in PREDEFINED}

    def build(self, instructions: tuple[i.Instruction, ...]) -> State:
        """All of it. Raises BuildFailed, ContainerfileError and what the rooms below raise."""
        triggers = self.state.config.pop("OnBuild", None) or []
        made = [self._trigger(text, number) for number, text in enumerate(triggers, 1)]
        whole = [*made, *instructions]
        self._total = len(whole)
        for instruction in whole:
            self._number += 1
            self.work.check()
            self._one(instruction)
        return self.state

    def _trigger(self, text: str, number: int) -> i.Instruction:
        """ONBUILD of the base image: run once, and not kept for who builds on this image."""
        return parse_trigger(text, f"ONBUILD {number} of the base of stage {self.name}")

    def _one(self, made: i.Instruction) -> None:
        self.work.tell(StepStarted(self.name, self._number, self._total, made.title))
        begun = time.monotonic()
        try:
            cached = self.do(made)
        except (BuildFailed, ContainerfileError):
            raise
        except SandboxError as error:
            raise BuildFailed(made.place, made.title, str(error)) from error
        except OSError as error:  # no space, too many open files, a helper that was killed
            raise BuildFailed(made.place, made.title, shown(error)) from error
        seconds = time.monotonic() - begun
        self.work.tell(StepDone(self.name, self._number, bool(cached), seconds))

    @singledispatchmethod
    def do(self, made: i.Instruction) -> bool:
        """One instruction; whether what it does was done before."""
        raise NotImplementedError(type(made).__name__)

    def _of(self, piece: Piece) -> str:
        return words.expand(piece, self.state.lookup, self.work.escape)

    def _set(self, made: i.Instruction) -> bool:
        """An instruction that made no layer. Its time is that of the one before it: what changes
        nothing must not make another image."""
        history = self.state.history
        created = history[-1].created if history else None
        self.state.note(created or self.work.first_created(self.state), _history(made), None)
        return False

    def _keep(self, made: i.Instruction, done: tuple[Result, bool]) -> bool:
        result, cached = done
        self.state.note(result.created, _history(made), result.layer)
        return cached

    @do.register
    def _(self, made: i.Arg) -> bool:
        for name, default in made.names:
            given = self.work.request.arguments
            if name in given:
                self.state.arguments[name] = given[name]
            elif default is not None:
                self.state.arguments[name] = self._of(default)
            elif name in self._global:
                self.state.arguments[name] = self._global[name]
        self._hold_variables(made)
        return self._set(made)

    @do.register
    def _(self, made: i.Env) -> bool:
        values = self.state.environment
        # As the reference has it: all of one instruction see the values of before it.
        lookup = self.state.lookup
        for key, value in made.pairs:
            name = words.expand(key, lookup, self.work.escape)
            if not name or "=" in name or "\0" in name:
                key.fail("a variable has a name without `=`")
            values[name] = words.expand(value, lookup, self.work.escape)
        self.state.set_environment(values)
        self._hold_variables(made)
        return self._set(made)

    def _hold_variables(self, made: i.Instruction) -> None:
        if len(self.state.arguments) + len(self.state.environment) > MOST_VARIABLES:
            made.place.fail(f"there are more than {MOST_VARIABLES} variables")

    @do.register
    def _(self, made: i.Label) -> bool:
        labels = dict(self.state.config.get("Labels") or {})
        for key, value in made.pairs:
            labels[self._of(key)] = self._of(value)
        self.state.config["Labels"] = labels
        return self._set(made)

    @do.register
    def _(self, made: i.Run) -> bool:
        def origin(text: str) -> State:
            return self._origins(text)

        done = running.run(self.work, self.state, made, origin, self.name, self._number)
        return self._keep(made, done)

    @do.register
    def _(self, made: i.Copy) -> bool:
        origin = self._origins(made.origin) if made.origin is not None else None
        return self._keep(made, copying.copy(self.work, self.state, made, origin))

    @do.register
    def _(self, made: i.Workdir) -> bool:
        text = self._of(made.path)
        path = posixpath.normpath(posixpath.join(self.state.workdir, text))
        path = "/" + path.lstrip("/")
        if not text or any(char < " " for char in text):
            made.path.fail("a working folder is a path without control characters")
        if path.split("/")[1] in _KERNEL_TREES:
            made.path.fail(f"`{path[:80]}` is the kernel's: a working folder lies elsewhere")
        self.state.config["WorkingDir"] = path
        if path == "/":
            return self._set(made)
        user = self.state.user or None
        key = cache.key(
            step="workdir",
            below=self.state.chain,
            path=path,
            user=user,
            epoch=self.work.request.epoch,
        )
        found = self.work.cached(key)
        if found is not None:
            return self._keep(made, (found, True))
        from sandbox_kernel.building import workshop

        with workshop.bench(self.work, self.state.layers) as bench:
            # As docker's BuildKit has it: what is missing of it belongs to the user of then.
            bench.make_folder({"destination": path, "owner": user})
            layer = bench.layer(self.work.store, self.work.request.epoch)
        result = self.work.keep(key, Result(timestamp(self.work.request.epoch), layer))
        return self._keep(made, (result, False))

    @do.register
    def _(self, made: i.User) -> bool:
        user = self._of(made.user)
        if not _USER.match(user):
            made.user.fail(f"`{user[:60]}` is no user: NAME or NUMBER, and perhaps :GROUP")
        for part in user.split(":"):
            if part.isdigit() and int(part) > 0xFFFFFFFE:
                made.user.fail(f"`{part}` is above the largest id")
        self.state.config["User"] = user
        return self._set(made)

    def _words(self, command: i.Command) -> list[str]:
        return [*self.state.shell, *command.words] if command.shell else list(command.words)

    @do.register
    def _(self, made: i.Entrypoint) -> bool:
        self.state.config["Entrypoint"] = self._words(made.command)
        if not self._cmd_is_own:  # a command of the base was meant for its own entrypoint
            self.state.config.pop("Cmd", None)
        return self._set(made)

    @do.register
    def _(self, made: i.Cmd) -> bool:
        self.state.config["Cmd"] = self._words(made.command)
        self._cmd_is_own = True
        return self._set(made)

    @do.register
    def _(self, made: i.Shell) -> bool:
        self.state.config["Shell"] = list(made.words)
        return self._set(made)

    @do.register
    def _(self, made: i.Expose) -> bool:
        ports = dict(self.state.config.get("ExposedPorts") or {})
        for piece in made.ports:
            for text in words.expand_words(piece, self.state.lookup, self.work.escape):
                match = _PORT.match(text)
                low = int(match[1]) if match else 0
                high = int(match[2] or low) if match else 0
                if match is None or not 0 < low <= high < 65536:
                    piece.fail(f"`{text[:40]}` is no port: NUMBER, or NUMBER/udp")
                for number in range(low, high + 1):
                    ports[f"{number}/{(match[3] or 'tcp').lower()}"] = {}
        if len(ports) > MOST_PORTS:
            made.place.fail(f"there are more than {MOST_PORTS} ports")
        self.state.config["ExposedPorts"] = ports
        return self._set(made)

    @do.register
    def _(self, made: i.Volume) -> bool:
        volumes = dict(self.state.config.get("Volumes") or {})
        for piece in made.paths:
            path = self._of(piece)
            clean = posixpath.normpath("/" + path)
            if not path or clean in ("/", "//") or ".." in path.split("/"):
                piece.fail(f"`{path[:60]}` is no volume: it is a folder of the image, and not /")
            volumes[path] = {}
        self.state.config["Volumes"] = volumes
        return self._set(made)

    @do.register
    def _(self, made: i.Stopsignal) -> bool:
        signal = self._of(made.signal)
        if not _SIGNAL.match(signal):
            made.signal.fail(f"`{signal[:40]}` is no signal: SIGTERM, or its number")
        self.state.config["StopSignal"] = signal
        return self._set(made)

    @do.register
    def _(self, made: i.Maintainer) -> bool:
        self.state.author = made.name.text
        return self._set(made)

    @do.register
    def _(self, made: i.Healthcheck) -> bool:
        if made.command is None:
            self.state.config["Healthcheck"] = {"Test": ["NONE"]}
            return self._set(made)
        kind = "CMD-SHELL" if made.command.shell else "CMD"
        check: dict[str, object] = {"Test": [kind, *made.command.words]}
        for name, value in (
            ("Interval", made.interval),
            ("Timeout", made.timeout),
            ("StartPeriod", made.start_period),
            ("StartInterval", made.start_interval),
            ("Retries", made.retries),
        ):
            if value:
                check[name] = value
        self.state.config["Healthcheck"] = check
        return self._set(made)

    @do.register
    def _(self, made: i.Onbuild) -> bool:
        triggers = list(self.state.config.get("OnBuild") or ())
        self.state.config["OnBuild"] = [*triggers, made.trigger]
        return self._set(made)


def _history(made: i.Instruction) -> str:
    """As docker has it, so that `history` shows what was written; never a secret or an argument."""
    return f"{made.text} # sandbox-kernel"

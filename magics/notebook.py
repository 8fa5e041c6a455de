"""What a notebook has: its defaults, its kept containers, and what its last cell used."""

from __future__ import annotations

import atexit
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from sandbox_kernel import image, policy, settings
from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.kernel.pinning import Pinning
from sandbox_kernel.output_policy import Displays, OutputPolicy
from sandbox_kernel.policy import ContainerPlan
from sandbox_kernel.settings import OPTIONS, Settings

if TYPE_CHECKING:
    from magics.background import Background
    from sandbox_kernel.container import Container
    from sandbox_kernel.widgets.notebook import Widget

MOST_LOG = 1 << 20
LAST_STATE_SECONDS = 5.0


class Last(NamedTuple):
    """The last `%%container` cell: `_container` in the notebook."""

    id: str
    name: str
    status: int
    usage: Mapping[str, Any]
    plan: ContainerPlan
    limits: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        from magics.oneline import usage_line

        return f"<container {self.name}: status {self.status}, {usage_line(self.usage)}>"


class Kept:
    """A container that stays, what it has shown, and the end of what its cells printed."""

    def __init__(self, container: Container, image: str) -> None:
        self.container = container
        self.image = image
        """As it was named, before what the name meant was looked up."""
        self.displays = Displays()
        self.views: list[Widget] = []
        self._log: deque[str] = deque()
        self._size = 0

    def write(self, text: str) -> None:
        """Remembers output for `%container logs`; old text gives way."""
        self._log.append(text)
        self._size += len(text)
        while self._size > MOST_LOG and len(self._log) > 1:
            self._size -= len(self._log.popleft())

    @property
    def log(self) -> str:
        return "".join(self._log)


class Notebook:
    """The state behind the magics of one shell."""

    def __init__(self) -> None:
        self.defaults: dict[str, Any] = {}
        self.kept: dict[str, Kept] = {}
        self.background: list[Background] = []
        self.published: set[str] = set()
        """Containers whose ports were shown."""
        self.last: Last | None = None
        self.told: set[str] = set()
        self.pinning = Pinning()
        self._policies: dict[str, OutputPolicy] = {}
        atexit.register(self.close)

    def settings(self) -> Settings:
        """The user's and the project's settings, then this notebook's metadata and defaults."""
        found = settings.of_notebook(settings.load())
        if self.defaults:
            found = found.plus(settings.NOTEBOOK, self.defaults)
        return found

    def plan(self, options: Mapping[str, Any]) -> ContainerPlan:
        """The plan of a cell with these options."""
        return policy.plan(settings.MAGIC, within=self.settings(), **options)

    def hold(self, word: str) -> None:
        """Refuses an image that is not stored, and that no cell of this notebook may have got.

        Raises NotAllowed.
        """
        from sandbox_kernel.cli import images

        if images.facts(word) is None:
            self.plan({"image": word})

    def policy(self, level: str) -> OutputPolicy:
        """What outputs may do at that level; it remembers what was told."""
        return self._policies.setdefault(level, OutputPolicy(level))

    def set_defaults(self, options: Mapping[str, Any]) -> None:
        """Takes the options as defaults if a plan can be made with them; else changes nothing."""
        wished = {**self.defaults, **options}
        plan = policy.plan(
            settings.NOTEBOOK, within=settings.of_notebook(settings.load()), **wished
        )
        image.resolve(self.pinning.plan(plan).image)
        self.defaults = wished

    def find(self, name: str) -> Kept | None:
        """A kept container of this notebook that still lives, by name or id."""
        for known, kept in list(self.kept.items()):
            if name not in (known, kept.container.id):
                continue
            if is_alive(kept.container):
                return kept
            self.drop(known)
        return None

    def drop(self, name: str) -> None:
        """Removes a kept container; its views then show its last state, which stays."""
        kept = self.kept.pop(name, None)
        if kept is not None:
            kept.container.remove()
            for view in kept.views:
                view.wait_ended(LAST_STATE_SECONDS)

    def reuse(self, plan: ContainerPlan, options: Mapping[str, Any]) -> Kept | None:
        """The kept container of this name, with live limits changed as the options say.

        None when there is none. Raises InvalidOption for an option that can't change any more.
        """
        kept = self.find(plan.name) if plan.name else None
        if kept is None:
            return None
        container = kept.container
        changes = {}
        for name in options:
            wanted, have = getattr(plan, name), getattr(container.plan, name)
            have = kept.image if name == "image" else have
            if wanted == have or name in ("name", "keep", "timeout", "output"):
                continue
            if name not in policy.LIVE:
                why = f"`{OPTIONS[name].show(have)}` in `{container.name}`, which is kept: "
                why += f"remove it first: `%container rm {container.name}`"
                raise InvalidOption(OPTIONS[name].flags[0], OPTIONS[name].show(wanted), why)
            changes[name] = wanted
        if changes:
            container.set_limits(**changes)
        return kept

    def tell(self, lines: Iterable[str]) -> None:
        """Once for each: a default limit that this machine can't hold."""
        for line in lines:
            if line not in self.told:
                self.told.add(line)
                print(f"container: {line}", file=sys.stderr)

    def close(self) -> None:
        """Ends what this notebook keeps and runs; runs at the end of its kernel."""
        for running in self.background:  # all are told before one is waited for
            running.interrupt()
            running.interrupt()
        for running in self.background:
            running.cancel()
        for name in list(self.kept):
            self.drop(name)


def is_alive(container: Container) -> bool:
    """Whether the container still lives: another program may have removed it."""
    from sandbox_kernel.errors import ContainerError

    try:
        container.usage()
    except ContainerError:
        return False
    return True

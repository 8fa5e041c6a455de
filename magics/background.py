"""A cell in the background: `%%container --background` gives the notebook a handle of it."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from magics import oneline, shown
from magics.notebook import Kept
from sandbox_kernel import engine
from sandbox_kernel.container import events as e
from sandbox_kernel.container import files
from sandbox_kernel.container.readiness import Readiness
from sandbox_kernel.grammar import shown_seconds
from sandbox_kernel.output_policy import OutputPolicy
from sandbox_kernel.policy import ContainerPlan

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

END_SECONDS = 30.0


class Background:
    """A cell that runs while the notebook goes on.

    What it shows is kept until `show` is called. What `--out` names are variables of the notebook,
    and what `--files-out` names lies in its folder, after `wait` or `result`: nothing changes in a
    notebook behind its author's back.
    """

    def __init__(
        self,
        shell: InteractiveShell,
        running: engine.Run,
        plan: ContainerPlan,
        kept: Kept | None,
        policy: OutputPolicy,
    ) -> None:
        self.id = running.container.id
        self.name = running.container.name
        self._shell = shell
        self._running = running
        self._plan = plan
        self._kept = kept
        self._outlet = shown.Outlet(shell, policy, kept.displays if kept else None)
        self._began = time.monotonic()
        self._events: list[e.Event] = []
        self._files: list[tuple[str, bytes]] = []
        self._shown = 0
        self._result: engine.Result | None = None
        self._problem: BaseException | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._follow, name=f"container {self.name}", daemon=True
        )
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether it is over."""
        return self._over.is_set()

    @property
    def output(self) -> str:
        """What it wrote until now, of both streams."""
        texts = [event for event in self._events if isinstance(event, e.Stdout | e.Stderr)]
        return "".join(event.text for event in texts)

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it was over within `timeout` seconds; None waits for its end.

        Raises StepFailed for a file that can't be written.
        """
        if not self._over.wait(timeout):
            return False
        if self._result is not None:
            self._shell.user_ns.update(self._result.outputs)
            while self._files:
                files.save(os.getcwd(), *self._files.pop())
        return True

    def wait_ready(self, readiness: Readiness) -> None:
        """Returns when it is, as a service; otherwise shows what it wrote, and ends it.

        Raises NotReady.
        """
        try:
            readiness.wait(self._running.container, self._over.wait)
        except BaseException:
            self.cancel()
            self.show()
            raise

    @property
    def result(self) -> engine.Result:
        """What it did, when it is over; `result.check()` raises what went wrong."""
        self.wait()
        if self._result is None:
            assert self._problem is not None
            raise self._problem
        return self._result

    def show(self) -> None:
        """Shows what it put out since the last time: text, displays, the result, the error."""
        events, self._shown = self._events[self._shown :], len(self._events)
        for event in events:
            if isinstance(event, e.Error):
                self._outlet.show(e.Stderr(event.traceback))
            else:
                self._outlet.show(event)

    def interrupt(self) -> None:
        """SIGINT to the code; after the grace time it is ended."""
        self._running.interrupt()

    def cancel(self) -> None:
        """Ends it, and returns when nothing of it is left."""
        if not self.done:
            self._running.interrupt()
            self._running.interrupt()
            self._thread.join(END_SECONDS)

    def _follow(self) -> None:
        try:
            limits = self._running.limits()
            gathered = engine.Gathered(self._running, self._plan)
            for event in self._running:
                gathered.take(event)
                if isinstance(event, e.File):
                    self._files.append((event.path, event.content))
                elif not isinstance(event, e.Value):
                    self._events.append(event)
                if self._kept is not None and isinstance(event, e.Stdout | e.Stderr):
                    self._kept.write(event.text)
            self._result = gathered.result(limits)
        except BaseException as problem:  # raised to who asks for the result
            self._problem = problem
        finally:
            self._running.close()
            self._over.set()

    def __repr__(self) -> str:
        return f"<container {self.name} in the background: {self._state()}>"

    def _state(self) -> str:
        if not self.done:
            return f"running for {shown_seconds(round(time.monotonic() - self._began, 1))}"
        if self._result is None:
            return f"lost: {self._problem}"
        used: Any = self._result.usage
        return f"status {self._result.status}, {oneline.usage_line(used)}"

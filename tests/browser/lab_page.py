"""JupyterLab as a person uses it: launcher, cells, toolbar, debugger. No test in here."""

from __future__ import annotations

import contextlib
import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from awaiting import until
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Locator, Page, expect

_NUMBERED = re.compile(r"\[\d+\]:")
_CLOSE_ALL = """() => {
  for (const shown of [...jupyterapp.shell.widgets("main")]) {
    if (shown.context) shown.context.model.dirty = false;
    shown.close();
  }
}"""


class Lab(NamedTuple):
    """A JupyterLab that runs: its address and token, the folders that it shows and of progress."""

    url: str
    token: str
    folder: Path
    progress: Path


class LabPage:
    """One browser tab with JupyterLab in it."""

    def __init__(self, page: Page, images: Path | None) -> None:
        self.page = page
        self.images = images
        self.requests: list[str] = []
        """Addresses that the page asked for, where a test has them noted."""
        self._elsewhere = False
        """Whether it was led to a folder, which is still shown when that is gone."""

    def empty(self) -> bool:
        """Close all that is open, without a question; whether the launcher alone is there then."""
        if self._elsewhere:
            return False
        try:
            self.page.evaluate(_CLOSE_ALL)
            self.page.locator(".jp-Launcher").wait_for(timeout=5000)
        except PlaywrightError:
            return False  # another page, or one that asks something
        return self.page.locator(".jp-Dialog").count() == 0

    # -- notebook and cells -----------------------------------------------------------------------

    def new_notebook(self, kernel: str) -> None:
        """Pick `kernel` in the launcher, and wait until it is idle."""
        self.page.locator(
            f'.jp-LauncherCard[data-category="Notebook"][title^="{kernel}"]'
        ).first.click()
        self.page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
        self.wait_until_idle()

    def open_notebook(self, url: str, name: str) -> None:
        """Open a notebook that lies in the server's folder, and wait until its kernel is idle."""
        self._elsewhere = True
        self.page.goto(f"{url}lab/tree/{name}")
        self.page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
        self.wait_until_idle()

    def run_all(self) -> None:
        """The menu: Run, Run All Cells."""

        def ask() -> None:
            self.page.get_by_role("menuitem", name="Run", exact=True).click()
            self.page.get_by_text("Run All Cells", exact=True).click()

        ask_until_it_runs(self.page, ask)

    def wait_until_idle(self, seconds: float = 60) -> None:
        """Wait until the status line says that the kernel has nothing to do."""
        expect(self.page.locator("#jp-main-statusbar")).to_contain_text(
            "| Idle", timeout=seconds * 1000
        )

    def save(self) -> None:
        """The disk in the toolbar; a new notebook keeps the name that it is asked for."""
        self.page.locator('.jp-NotebookPanel:visible [data-command="docmanager:save"]').click()
        self.page.locator(".jp-Dialog .jp-mod-accept").click()
        expect(self.page.locator(".lm-TabBar-tab.lm-mod-current.jp-mod-dirty")).to_have_count(0)

    def use_theme(self, name: str) -> None:
        """The menu: Settings, Theme."""
        self.page.get_by_role("menuitem", name="Settings", exact=True).click()
        self.page.locator(".lm-Menu-item").filter(has_text="Theme").first.hover()
        self.page.locator(".lm-Menu-itemLabel").get_by_text(name, exact=True).click()
        self.page.locator(f'body[data-jp-theme-name="{name}"]').wait_for(state="attached")

    def write(self, code: str) -> Locator:
        """Put `code` into the last cell, which must be empty, without running it."""
        cell = self.page.locator(".jp-Notebook:visible .jp-CodeCell").last
        cell.locator(".cm-content").click()
        self.page.keyboard.insert_text(code)
        index = self.page.locator(".jp-Notebook:visible .jp-CodeCell").count() - 1
        return self.page.locator(".jp-Notebook:visible .jp-CodeCell").nth(index)

    def start(self, code: str) -> Locator:
        """Write and run a cell, and don't wait for its end."""
        cell = self.write(code)
        self.page.keyboard.press("Shift+Enter")
        return cell

    def run(self, code: str, seconds: float = 60) -> str:
        """Run a cell to its end; the text of its outputs."""
        cell = self.start(code)
        self.wait_for_end(cell, seconds)
        return self.output(cell)

    def wait_for_end(self, cell: Locator, seconds: float = 60) -> None:
        """Wait until the cell has its number."""
        expect(cell.locator(".jp-InputPrompt")).to_have_text(_NUMBERED, timeout=seconds * 1000)

    @staticmethod
    def output(cell: Locator) -> str:
        """The text that stands below a cell."""
        area = cell.locator(".jp-Cell-outputArea")
        return area.inner_text() if area.count() else ""

    # -- kernel -----------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """The square in the toolbar."""
        self.page.locator(
            '.jp-NotebookPanel:visible [data-command="notebook:interrupt-kernel"]'
        ).click()

    def restart(self) -> None:
        """The round arrow in the toolbar, and the answer to its question."""
        self.page.locator(
            '.jp-NotebookPanel:visible [data-command="notebook:restart-kernel"]'
        ).click()
        self.page.locator(".jp-Dialog .jp-mod-accept").click()

    def end_kernels(self, url: str, token: str) -> None:
        """End all sessions and kernels of the server, so that the next test starts with none."""
        for kind in ("sessions", "kernels"):  # Voilà has kernels without a session
            for found in self._ask(f"{url}api/{kind}", token):
                with contextlib.suppress(urllib.error.HTTPError):  # it has ended by itself
                    self._ask(f"{url}api/{kind}/{found['id']}", token, "DELETE")

    def kernels(self, url: str, token: str) -> int:
        """How many sessions of the server there are."""
        return len(self._ask(f"{url}api/sessions", token))

    @staticmethod
    def _ask(url: str, token: str, method: str = "GET") -> list[dict[str, str]]:
        request = urllib.request.Request(
            url, method=method, headers={"Authorization": f"token {token}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"[]")

    # -- debugger ---------------------------------------------------------------------------------

    def enable_debugger(self) -> None:
        """The beetle in the notebook's toolbar, which also opens the panel at the right."""
        button = self.page.locator(".jp-NotebookPanel:visible .jp-DebuggerBugButton")
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true")
        self.page.locator(".jp-DebuggerCallstack").wait_for()

    def toggle_breakpoint(self, cell: Locator, line: int) -> None:
        """Click beside line `line` (from 1) of a cell."""
        shown = self.page.locator(".jp-DebuggerBreakpoint")
        before = shown.count()
        cell.locator(".cm-breakpoint-gutter .cm-gutterElement").nth(line).click()
        expect(shown).to_have_count(1 - before)

    def expect_stop(self, function: str, **variables: str) -> None:
        """Wait until the call stack begins with `function`, and its locals are `variables`."""
        expect(self.page.locator(".jp-DebuggerCallstackFrame").first).to_contain_text(function)
        for name, value in variables.items():
            row = self.page.locator(".jp-DebuggerVariables jp-tree-item").filter(
                has=self.page.get_by_text(name, exact=True)
            )
            expect(row.locator(".jp-DebuggerVariables-detail")).to_have_text(value)

    def continue_debugging(self) -> None:
        """The triangle above the call stack."""
        self.page.locator('[data-command="debugger:continue"]').first.click()

    # -- pictures ---------------------------------------------------------------------------------

    def picture(self, name: str) -> None:
        """Keep what is on the screen now as a picture of the documentation, if asked for."""
        if self.images is None:
            return
        self.images.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=self.images / f"{name}.png")

    def picture_of(self, view: Locator, name: str) -> None:
        """The same of one element."""
        if self.images is None:
            return
        self.images.mkdir(parents=True, exist_ok=True)
        view.screenshot(path=self.images / f"{name}.png")


def ask_until_it_runs(page: Page, ask: Callable[[], None]) -> None:
    """Have the first cell of a notebook run: before it has its kernel a notebook takes keys and
    clicks and runs nothing, also for a moment in which it shows that the kernel is idle."""
    prompt = page.locator(".jp-Notebook:visible .jp-CodeCell .jp-InputPrompt").first

    def runs() -> bool:
        ask()
        try:
            expect(prompt).not_to_have_text("[ ]:", timeout=10_000)
        except AssertionError:
            return False
        return True

    until(runs, 60)

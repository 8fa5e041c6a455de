"""Live views: what they cost here and in a browser, and how soon they show and do something.

The browser is Debian's Chromium, before a JupyterLab on loopback whose kernel is "Sandbox (Python
3)"; its cost is the processor time of all its processes.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Page, sync_playwright

from benchmarks.pairs import Amounts, Pair, Size
from sandbox_kernel import policy, settings
from sandbox_kernel.container import Container, ProcessSpec
from sandbox_kernel.observe.groups import Group
from sandbox_kernel.observe.use import Use
from sandbox_kernel.widgets import contract, kinds, opening
from sandbox_kernel.widgets.live import Live

MANY = 20
SECONDS = 10.0
GROWTH_SECONDS = 60.0
"""For how long growth is watched unless told otherwise; the promise is made for 1800."""
FULL_SECONDS = 65.0
"""After which a view has as many samples as it keeps, so what grows then grows for ever."""
BUSY = ("sh", "-c", "while :; do sleep 0.3; done")
"""Changes processor time and the number of processes from each look to the next."""
MIB = 1 << 20
CHROMIUM = "/usr/bin/chromium"


def rows(rounds: int, growth_seconds: float = GROWTH_SECONDS) -> Iterator[Pair | Amounts | Size]:
    """All of them."""
    files = contract.script() + "".join(contract.style(name) for name in kinds.KINDS)
    yield Size("views: all that a page loads, compressed", _kilobytes(files), "kB", 250)
    with contextlib.ExitStack() as stack:
        made = [_container(stack, number) for number in range(MANY)]
        yield from _answers(made[0], rounds)
        yield _looking(made)
        yield from _views(made)
        yield from _in_a_browser(stack, growth_seconds)


def _kilobytes(text: str) -> float:
    return len(gzip.compress(text.encode())) / 1000


def _container(stack: contextlib.ExitStack, number: int) -> Container:
    plan = policy.plan(settings.PROGRAM, name=f"seen-{number}", memory="200m", cpus=0.5)
    held = stack.enter_context(Container.create(plan))
    held.run(ProcessSpec(argv=BUSY))
    return held


class _Carrier:
    """What a notebook does with a view: takes the news and writes it as JSON."""

    def __init__(self, name: str, held: Container) -> None:
        self.markup = ""
        self.news = threading.Event()
        self.live: Live | None = None
        self.live = Live(opening.open_view(name, held), self._changed)

    def _changed(self) -> None:
        if self.live is not None:
            told = self.live.news()
            json.dumps(told)
            self.markup = told.get("markup", self.markup)
            self.news.set()

    def until(self, wanted: Callable[[], bool]) -> None:
        while not wanted():
            self.news.wait(1.0)
            self.news.clear()

    def close(self) -> None:
        assert self.live is not None
        self.live.stop("stopped")


def _answers(held: Container, rounds: int) -> Iterator[Size]:
    carrier = _Carrier("limits", held)
    assert carrier.live is not None
    carrier.until(lambda: bool(carrier.markup))
    shown, told = [], []
    with Group(held.cgroup_paths()) as group:
        for number in range(rounds):
            size = (100 + number) * MIB
            held.set_limits(memory=size)
            begin = time.perf_counter()
            carrier.until(lambda text=f">{100 + number} MiB<": text in carrier.markup)  # type: ignore[misc]
            shown.append(time.perf_counter() - begin)
            size = (160 + number) * MIB
            fields = {"option": "memory", "value": str(size)}
            begin = time.perf_counter()
            carrier.live.hear({"act": "limit", "fields": fields, "number": number + 1})
            while group.limits()["memory"].value != size:
                os.sched_yield()
            told.append(time.perf_counter() - begin)
    carrier.close()
    for what, seconds in (
        ("a change in a file of the kernel until a view says it, 9 of 10", shown),
        ("a limit asked for until it is in the file of the kernel, 9 of 10", told),
    ):
        yield Size(what, 1000 * statistics.quantiles(seconds, n=10)[-1], "ms", 300)


def _looking(made: list[Container]) -> Size:
    """Facts alone, without anything that shows them."""
    sources = [Use(held) for held in made]
    for source in sources:
        source.open()
    turns = int(SECONDS / sources[0].interval)
    begin, before = time.perf_counter(), time.process_time()
    for turn in range(1, turns + 1):
        for source in sources:
            source.look()
        left = begin + turn * sources[0].interval - time.perf_counter()
        time.sleep(max(0.0, left))
    share = (time.process_time() - before) / (time.perf_counter() - begin)
    for source in sources:
        source.close()
    return Size(f"reading what {MANY} containers use, 4 times in a second", 100 * share, "%", 1)


def _views(made: list[Container]) -> Iterator[Size]:
    carriers = [_Carrier("limits", held) for held in made]
    time.sleep(5)
    share = _own_share(SECONDS)
    yield Size(f"{MANY} views of limits, one of each container, 4 Hz: here", 100 * share, "%", 5)
    for carrier in carriers:
        carrier.close()
    one = _Carrier("containers", made[0])
    time.sleep(2)
    share = _own_share(SECONDS)
    yield Size(f"one view of all {MANY} containers, 4 Hz: here", 100 * share, "%", 5)
    one.close()


def _own_share(seconds: float) -> float:
    before = time.process_time()
    time.sleep(seconds)
    return (time.process_time() - before) / seconds


# -- in a browser ---------------------------------------------------------------------------------


def _in_a_browser(stack: contextlib.ExitStack, growth_seconds: float) -> Iterator[Size]:
    home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    url, token = _jupyter(stack, home)
    playwright = stack.enter_context(sync_playwright())
    browser = playwright.chromium.launch(
        executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    )
    stack.callback(browser.close)
    page = browser.new_page(viewport={"width": 1280, "height": 900}, locale="en-GB")
    page.set_default_timeout(60_000)
    page.goto(f"{url}lab?reset&token={token}")
    page.locator('.jp-LauncherCard[title^="Python 3 (ipykernel)"]').first.click()
    _until_idle(page)
    _run(page, "%load_ext sandbox_kernel")
    _run(page, "from sandbox_kernel.widgets import Limits")
    paints = []
    for number in range(5):
        begin = time.perf_counter()
        cell = _start(page, f"%container show limits seen-{number}")
        cell.locator(".sandbox-limits polyline").first.wait_for(state="attached")
        paints.append(time.perf_counter() - begin)
    yield Size("a cell is run until its view is on the screen, in JupyterLab",
               1000 * statistics.median(paints), "ms", 500)  # fmt: skip
    show = f"for number in range(5, {MANY}): display(Limits(f'seen-{{number}}'))"
    _start(page, show).locator(".sandbox-limits").nth(MANY - 6).wait_for(state="attached")
    page.wait_for_timeout(3000)
    kernel = _kernel()
    shares = _shares([_browser(), [kernel]], SECONDS)
    yield Size(f"{MANY} views of limits, 4 Hz: the browser", 100 * shares[0], "%", 20)
    yield Size(f"{MANY} views of limits, 4 Hz: the notebook's kernel", 100 * shares[1], "%", 5)
    yield from _growth(page, kernel, growth_seconds)
    page.reload()
    _until_idle(page)
    page.locator(".jp-Notebook").first.evaluate("notebook => notebook.scrollTo(0, 1e9)")
    _run(page, "from ipywidgets import Widget; Widget.close_all()")  # the views measured before
    _run(page, "%container show containers")
    page.locator(".sandbox-containers").first.wait_for()
    page.wait_for_timeout(2000)
    (share,) = _shares([_browser()], SECONDS)
    yield Size(f"one view of all {MANY} containers, 4 Hz: the browser", 100 * share, "%", 20)


def _jupyter(stack: contextlib.ExitStack, home: Path) -> tuple[str, str]:
    token = os.urandom(12).hex()
    environment = os.environ | {
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
    }
    arguments = ["--no-browser", "--ip=127.0.0.1", "--port=0", f"--notebook-dir={home}",
                 f"--IdentityProvider.token={token}", "--LabApp.news_url=None"]  # fmt: skip
    if os.geteuid() == 0:
        arguments.append("--allow-root")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *arguments],
        env=environment, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def end() -> None:
        server.terminate()
        server.wait(30)

    stack.callback(end)
    file = home / f"runtime/jpserver-{server.pid}.json"
    while not file.exists():
        time.sleep(0.1)
        if server.poll() is not None:
            raise RuntimeError("JupyterLab did not start")
    return str(json.loads(file.read_text())["url"]), token


def _start(page: Page, code: str) -> Any:
    cells = page.locator(".jp-Notebook:visible .jp-CodeCell")
    cells.last.locator(".cm-content").click()
    page.keyboard.insert_text(code)
    index = cells.count() - 1
    page.keyboard.press("Shift+Enter")
    return cells.nth(index)


def _until_idle(page: Page) -> None:
    """A cell that is run before the page knows its kernel is never run."""
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    status = page.locator("#jp-main-statusbar").filter(has_text="| Idle")
    status.wait_for(timeout=60_000)


def _run(page: Page, code: str) -> None:
    cell = _start(page, code)
    page.wait_for_function(
        "prompt => /\\d/.test(prompt.textContent)",
        arg=cell.locator(".jp-InputPrompt").element_handle(),
    )


def _browser() -> list[psutil.Process]:
    """All processes of the browser."""
    own = psutil.Process().children(recursive=True)
    return [each for each in own if "chrom" in each.name()]


def _kernel() -> psutil.Process:
    """That of the notebook."""
    own = psutil.Process().children(recursive=True)
    (found,) = [each for each in own if "ipykernel_launcher" in each.cmdline()]
    return found


def _shares(groups: list[list[psutil.Process]], seconds: float) -> list[float]:
    """Of a processor, the processes of each group together, at the same time."""

    def used(processes: list[psutil.Process]) -> float:
        total = 0.0
        for each in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                total += times.user + times.system
        return total

    before = [used(group) for group in groups]
    time.sleep(seconds)
    return [(used(group) - then) / seconds for group, then in zip(groups, before, strict=True)]


def _growth(page: Page, kernel: psutil.Process, seconds: float) -> Iterator[Size]:
    """What there is more of, once the views have all that they keep."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def amounts() -> dict[str, float]:
        session.send("HeapProfiler.collectGarbage")
        told = session.send("Performance.getMetrics")["metrics"]
        metrics = {each["name"]: each["value"] for each in told}
        return {
            "memory of the kernel, MiB": kernel.memory_info().rss / MIB,
            "descriptors of the kernel": kernel.num_fds(),
            "memory of the page's script, MiB": metrics["JSHeapUsedSize"] / MIB,
            "nodes of the page": metrics["Nodes"],
        }

    time.sleep(FULL_SECONDS)
    before = amounts()
    time.sleep(seconds)
    after = amounts()
    session.detach()
    for name, most in zip(before, (2, 0, 2, 50), strict=True):
        what, _, unit = name.partition(", ")
        yield Size(f"growth in {seconds:g} s: {what}", after[name] - before[name], unit, most)

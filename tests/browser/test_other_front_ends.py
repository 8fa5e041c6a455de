"""The same view in Notebook 7, in Voilà, and in a page that offers what anywidget promises."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from awaiting import until
from lab_page import Lab, LabPage, ask_until_it_runs
from limits_in_force import drag, limit
from playwright.sync_api import Browser, Locator, Page, expect

from sandbox_kernel import policy, settings
from sandbox_kernel.container import Container
from sandbox_kernel.observe import Limits as SampleLimits
from sandbox_kernel.observe import Reading, sample
from sandbox_kernel.widgets import contract
from sandbox_kernel.widgets.limits import LimitsView

CODE = "from sandbox_kernel.widgets import Limits\nLimits('elsewhere')"
MIB = 1 << 20


@pytest.fixture(scope="module")
def held() -> Iterator[Container]:
    """What is looked at."""
    plan = policy.plan(settings.PROGRAM, name="elsewhere", memory="100m", pids_limit=40)
    with Container.create(plan) as made:
        yield made


@pytest.fixture
def page(lab: Lab, browser: Browser) -> Iterator[Page]:
    """A page, and afterwards no kernel."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CODE)])
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(notebook, lab.folder / "elsewhere.ipynb")
    context = browser.new_context(viewport={"width": 1200, "height": 800}, locale="en-GB")
    context.set_default_timeout(60_000)
    shown = context.new_page()
    try:
        yield shown
    finally:
        shown.goto("about:blank")  # at which Voilà ends its kernel
        LabPage(shown, None).end_kernels(lab.url, lab.token)
        context.close()


def live_view(page: Page) -> Locator:
    """The view, which says what the kernel's files say."""
    view = page.locator(".sandbox-limits").first
    expect(view).to_have_attribute("data-state", "live", timeout=60_000)
    expect(view.get_by_role("meter", name="Processes")).to_have_attribute(
        "aria-valuetext", re.compile(r"of 4\d")
    )
    return view


def change_by_key_and_by_drag(page: Page, view: Locator, held: Container) -> None:
    """What is asked for in the page is in the kernel's files afterwards."""
    processes = limit(held, "pids_limit")
    view.get_by_role("slider", name="limit of Processes").focus()
    page.keyboard.press("ArrowUp")
    until(lambda: limit(held, "pids_limit") == (processes or 0) + 1)

    memory = limit(held, "memory")
    line = view.get_by_role("slider", name="limit of Memory")
    line.scroll_into_view_if_needed()
    drag(line, 8)
    until(lambda: limit(held, "memory") != memory)
    expect(line).to_have_attribute("aria-valuenow", str(int(limit(held, "memory") or 0)))


def test_notebook_7_shows_a_live_view_whose_limits_can_be_changed(
    lab: Lab, page: Page, held: Container
) -> None:
    page.goto(f"{lab.url}notebooks/elsewhere.ipynb?token={lab.token}")
    page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').first.wait_for()

    def ask() -> None:
        page.locator(".jp-Notebook .jp-CodeCell .cm-content").first.click()
        page.keyboard.press("Shift+Enter")

    ask_until_it_runs(page, ask)
    view = live_view(page)
    change_by_key_and_by_drag(page, view, held)


def test_voila_shows_a_live_view_whose_limits_can_be_changed(
    lab: Lab, page: Page, held: Container
) -> None:
    page.goto(f"{lab.url}voila/render/elsewhere.ipynb?token={lab.token}")
    view = live_view(page)
    change_by_key_and_by_drag(page, view, held)


HOST = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><body><div id="view" style="width: 700px"></div>
<script nonce="host">
window.sent = [];
window.broken = [];
document.addEventListener("securitypolicyviolation", (event) =>
  broken.push(event.violatedDirective + " " + event.blockedURI));
const listeners = {};
const offered = {
  get: (name) => state[name],
  set: (name, value) => { state[name] = value; },
  save_changes: () => {},
  send: (content) => sent.push(content),
  on: (event, heard) => { (listeners[event] ??= []).push(heard); },
  off: (event, heard) => {
    listeners[event] = (listeners[event] ?? []).filter((each) => each !== heard);
  },
};
window.model = new Proxy(offered, { get: (all, name) => {
  if (!(name in all)) broken.push("model." + String(name));
  return all[name];
} });
window.tell = (news) => {
  Object.assign(state, news);
  for (const name of Object.keys(news)) listeners["change:" + name]?.forEach((heard) => heard());
};
window.begin = async (module, first) => {
  window.state = first;
  const url = URL.createObjectURL(new Blob([module], { type: "text/javascript" }));
  const { default: widget } = await import(url);
  window.end = widget.render({ model, el: document.getElementById("view") });
};
window.left = () => Object.values(listeners).flat().length;
</script></body></html>"""
POLICY = "default-src 'none'; script-src 'nonce-host' blob:; style-src 'unsafe-inline'"


def state_of(memory: int) -> dict[str, object]:
    """What a kernel tells of a container with 200 MiB at most, of which so much is used."""
    view = LimitsView("work", "en")
    for second in (1, 2):
        now = Reading(second, {"memory_bytes": memory, "pids": 3, "cpu_seconds": 1.0})
        view.show(sample(None, now, SampleLimits(memory=200 * MIB, pids=40), second))
    first, rows = view.drawn()
    series = {"from": first, "rows": list(rows)}
    return {"markup": str(view.markup()), "series": series, "beat": 0, "language": "en"}


def test_a_host_of_anywidget_needs_to_offer_no_more_than_visual_studio_code_does(
    browser: Browser,
) -> None:
    """Any host: the module by itself, where no `eval` and no other host may be used.

    Visual Studio Code takes the part of anywidget from the Python environment, and the module of a
    view from the state of its model; its model has what `HOST` offers, and no more.
    """
    part = Path(sys.prefix, "share/jupyter/nbextensions/anywidget/index.js")
    assert part.exists()
    context = browser.new_context(viewport={"width": 900, "height": 900}, locale="en-GB")
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    headers = {"Content-Security-Policy": POLICY, "Content-Type": "text/html"}
    page.route("http://host.test/", lambda route: route.fulfill(body=HOST, headers=headers))
    page.goto("http://host.test/")
    style = contract.style("limits")
    page.evaluate(
        "text => document.head.append(Object.assign(document.createElement('style'), "
        "{textContent: text}))",
        style,
    )
    page.evaluate("([module, state]) => begin(module, state)", [contract.script(), state_of(MIB)])
    view = page.locator(".sandbox-limits")
    meter = view.get_by_role("meter", name="Memory")
    expect(meter).to_have_attribute("aria-valuetext", re.compile("^1 MiB of 200 MiB"))
    assert view.locator("polyline").first.get_attribute("points")

    page.evaluate("state => tell(state)", state_of(50 * MIB))
    expect(meter).to_have_attribute("aria-valuetext", re.compile("^50 MiB of 200 MiB"))

    line = view.get_by_role("slider", name="limit of Memory")
    line.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    asked_for = page.evaluate("sent")
    assert [each["act"] for each in asked_for] == ["limit"]
    assert asked_for[0]["fields"]["option"] == "memory"
    assert float(asked_for[0]["fields"]["value"]) < 200 * MIB
    # Nobody answers: then the reader is told so.
    expect(view).to_have_attribute("data-own-waiting", re.compile("the notebook's kernel is busy"))

    page.evaluate("end()")
    assert page.evaluate("left()") == 0
    assert page.evaluate("broken") == []
    assert [url for url in asked if not url.startswith(("http://host.test/", "blob:"))] == []
    context.close()

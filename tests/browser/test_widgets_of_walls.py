"""Views of walls, ways and lives in JupyterLab: what is on the screen is what the kernel says."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress

import pytest
from axe_playwright_python.sync_playwright import Axe
from lab_page import Lab, LabPage
from playwright.sync_api import Browser, Locator, expect

from sandbox_kernel import container, errors, policy, settings
from sandbox_kernel.container import Container, ProcessSpec
from sandbox_kernel.observe import comparing, links, processes
from sandbox_kernel.widgets import opening

PLAIN = "Python 3 (ipykernel)"
SECONDS = 30.0
NAMES = ("network", "capabilities", "system-calls", "plan", "lifecycle")
NAME = "walled"
HOSTILE = "<img src=x onerror=document.title='owned'>"
# Waits as a process of a hostile name, in a network of its own with a neighbour that talks to it.
HELD = f"""%%container --name {NAME} --keep --network lesson --memory 300m --background
import os, socket, time
open('/proc/self/comm', 'w').write({HOSTILE[:15]!r})
server = socket.create_server(('', 8000))
while True:
    client, _ = server.accept()
    with client:
        while client.recv(1 << 16):
            pass"""
NEIGHBOUR = f"""%%container --name talker --network lesson --background
import socket, time
while True:
    try:
        with socket.create_connection(({NAME!r}, 8000)) as client:
            while True:
                client.sendall(bytes(1 << 14))
                time.sleep(0.02)
    except OSError:
        time.sleep(0.1)"""


# Asks for the metadata of a cloud, and for a host that is not on the list.
REFUSED = """
import socket
while True:
    for address in ("169.254.169.254", "11.22.33.44"):
        with socket.socket() as asked:
            asked.settimeout(0.3)
            asked.connect_ex((address, 80))"""


@pytest.fixture(scope="module")
def notebook(page_of_the_file: LabPage) -> Iterator[LabPage]:
    """One notebook with the magics and two containers that talk, for all tests of this file."""
    page = page_of_the_file
    tall(page)
    page.new_notebook(PLAIN)
    page.run("%load_ext sandbox_kernel")
    page.run(HELD)
    page.run(NEIGHBOUR)
    yield page
    remove_all()


@pytest.fixture(scope="module")
def held(notebook: LabPage) -> Iterator[Container]:
    """The container that is looked at, seen from outside."""
    found = container.find(NAME)
    yield found
    found.close()


def remove_all() -> None:
    """Both containers, whatever became of the notebook."""
    for name in (NAME, "talker"):
        with suppress(errors.NoSuchContainer):
            container.find(name).remove()


def shown(page: LabPage, name: str, reference: str = NAME) -> Locator:
    """The view below a new cell."""
    cell = page.start(f"%container show {name} {reference}".strip())
    page.wait_for_end(cell)
    view = cell.locator(f".jp-OutputArea .sandbox-{name}")
    expect(view).to_have_attribute("data-state", "live")
    view.scroll_into_view_if_needed()
    return view


def tall(page: LabPage) -> None:
    """For pictures: a view that is higher than the window would be cut."""
    if page.images is not None:
        page.page.set_viewport_size({"width": 1280, "height": 2400})


def test_what_flows_is_what_the_link_counts(notebook: LabPage, held: Container) -> None:
    view = shown(notebook, "network")
    row = view.get_by_role("row").filter(has_text=NAME)
    expect(row).to_contain_text(re.compile(r"KiB/s|MiB/s"))
    expect(view.locator(".sandbox-received:not([data-level='0'])").first).to_be_attached()
    expect(view.get_by_role("img")).to_have_attribute("aria-label", re.compile("1 networks with 2"))
    counted = links.of_process(held.pid).value
    assert counted is not None
    (link,) = [each for each in counted if each.name != "lo"]
    assert link.received_bytes > 1000


def test_what_is_dropped_is_there_with_the_rule(notebook: LabPage) -> None:
    plan = policy.plan(settings.PROGRAM, name="fenced", network="bridge", allow=["192.0.2.9:80"])
    with Container.create(plan) as fenced:
        view = shown(notebook, "network", "")
        process = fenced.run(ProcessSpec(argv=("python3", "-c", REFUSED)))
        assert process.started()
        drops = view.get_by_role("table", name="dropped packets")
        expect(drops.get_by_role("row").filter(has_text="fenced").first).to_contain_text("private")
        expect(drops).to_contain_text("tcp 169.254.169.254:80")
        expect(drops).to_contain_text("not-allowed")
        expect(view).to_contain_text(re.compile(r"packets dropped: \d+"))
        notebook.picture_of(view, "widget-network")
        process.kill()
        process.wait(SECONDS)
        process.close()


def test_root_in_there_holds_nothing_and_a_call_is_refused(
    notebook: LabPage, held: Container
) -> None:
    view = shown(notebook, "capabilities")
    expect(view).to_contain_text("holds 0 of")
    assert view.locator("li[data-held='yes']").count() == 0
    for each in processes.of_container(held):
        expect(view.get_by_role("row").filter(has_text=str(each.pid)).first).to_be_attached()
    expect(view).to_contain_text(HOSTILE[:10])
    assert view.locator("img").count() == 0
    assert notebook.page.title() != "owned"
    view.get_by_role("button", name="try mount a file system", exact=False).click()
    row = view.get_by_role("row").filter(has_text="mount a file system")
    expect(row).to_contain_text("EPERM")
    expect(row).to_contain_text("seccomp filter")
    view.get_by_role("button", name="try become another user").click()
    expect(view.get_by_role("row").filter(has_text="become another user")).to_contain_text(
        "CAP_SETUID"
    )
    if notebook.images is not None:
        notebook.use_theme("JupyterLab Dark")
        notebook.picture_of(view, "widget-capabilities-dark")
        notebook.use_theme("JupyterLab Light")
    notebook.picture_of(view, "widget-capabilities")


def test_calls_are_counted_only_while_it_is_switched_on(notebook: LabPage) -> None:
    view = shown(notebook, "system-calls")
    expect(view).to_contain_text("calls are not counted")
    view.get_by_role("button", name="count", exact=True).click()
    calls = view.get_by_role("table", name="calls by name")
    expect(calls.get_by_role("row").filter(has_text="recvfrom")).to_be_visible()
    field = view.get_by_role("textbox", name="name of a system call")
    field.fill("swapon")
    field.press("Enter")
    tried = view.get_by_role("table", name="calls to try in the container").get_by_role("row")
    expect(tried.filter(has_text="swapon")).to_contain_text("seccomp filter")
    view.get_by_role("button", name="try become another user").click()
    expect(view.get_by_role("table", name="refused calls")).to_contain_text("setuid")
    if notebook.images is not None:
        for name in ("ask for its own number", "write a setting of the kernel", "use io_uring"):
            view.get_by_role("button", name=f"try {name}").click()
            expect(tried.filter(has_text=name)).not_to_contain_text("not tried")
    notebook.picture_of(view, "widget-system-calls")
    field.fill("no such call")
    field.press("Enter")
    expect(view.get_by_role("alert")).to_contain_text("no such call")
    view.get_by_role("button", name="stop counting").click()
    expect(view).to_contain_text(re.compile(r"counted: [\d,]+ calls"))


def test_a_plan_says_where_each_value_came_from(notebook: LabPage, held: Container) -> None:
    view = shown(notebook, "plan")
    row = view.get_by_role("row").filter(has_text="--memory").first
    expect(row).to_contain_text("300 MiB")
    expect(row).to_contain_text("magic")
    expect(row).to_contain_text("read back from the kernel")
    held.set_limits(memory="301m")
    expect(row).to_contain_text(re.compile("301 MiB"))
    view.get_by_role("button", name="show what is not set, too").click()
    expect(view.get_by_role("row").filter(has_text="--hostname")).to_contain_text("not set")
    notebook.picture_of(view, "widget-plan")


def test_everybody_can_use_them_in_light_and_in_dark(
    notebook: LabPage, held: Container, browser: Browser
) -> None:
    """As pages, of the real facts: all of them are in view, and nothing else is."""
    opened = [opening.open_view(name, held, "en") for name in NAMES]
    pages = []
    for each in opened:
        each.source.open()
        each.view.show(each.source.look())
        each.source.close()
        pages.append(each.view.page())
    with browser.new_page() as page:
        for light in ("true", "false"):
            ground = "#fff" if light == "true" else "#111"
            page.set_content(
                f"<html lang=en><title>views</title><body data-jp-theme-light={light}"
                f" style='background: {ground}; --jp-content-font-color1:"
                f" {'#111' if light == 'true' else '#eee'}; --jp-layout-color0: {ground}'>"
                f"<main><h1>views</h1>{''.join(pages)}</main>"
            )
            found = Axe().run(page, context=".sandbox-view")
            assert found.violations_count == 0, f"light: {light}: {found.generate_report()}"


def test_walls_are_measured_and_a_life_is_followed_to_its_end(notebook: LabPage, lab: Lab) -> None:
    """The last test here: it ends the kernel with all that is ready for its next container."""
    view = shown(notebook, "compare", "")
    expect(view).to_contain_text("measured here at", timeout=SECONDS * 4000)
    row = view.get_by_role("row").filter(has_text="kernel that it sees")
    expect(row.get_by_role("cell").nth(1)).to_have_text(os.uname().release)
    started = view.get_by_role("row").filter(has_text="time to start")
    for wall in range(len(comparing.WALLS)):
        cell = started.get_by_role("cell").nth(wall)
        if not cell.inner_text():
            expect(view.locator(".sandbox-absences td").nth(wall)).to_contain_text("not here: ")
    notebook.picture_of(view, "widget-compare")

    notebook.run("%%container --name mortal --keep\n1 + 1")
    view = shown(notebook, "lifecycle", "mortal")
    expect(view.locator("[data-state='now']")).to_contain_text(re.compile("started|running"))
    expect(view.get_by_role("table", name="programs that ran in it")).to_contain_text("status 0")
    notebook.picture_of(view, "widget-lifecycle")
    notebook.run("%container rm mortal")
    expect(view.locator("[data-state='now']")).to_contain_text("removed")
    expect(view).to_have_attribute("data-state", "ended")
    remove_all()
    notebook.end_kernels(lab.url, lab.token)

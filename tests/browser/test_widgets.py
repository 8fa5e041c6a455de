"""Each view in JupyterLab: what is on the screen is in the kernel's files, and the other way."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest
from awaiting import until
from axe_playwright_python.sync_playwright import Axe
from built_images import make_root
from lab_page import Lab, LabPage
from limits_in_force import drag, limit
from playwright.sync_api import Locator, expect

from sandbox_kernel import container
from sandbox_kernel.container import Container
from sandbox_kernel.observe import namespaces

PLAIN = "Python 3 (ipykernel)"
MIB = 1 << 20
NAME = "seen"
HOSTILE = "<img src=x onerror=document.title='owned'>"
LIMITS = "--memory 300m --cpus 0.5 --pids-limit 64 --storage-size 64m"
HELD = f"""%%container --name {NAME} --keep {LIMITS}
import os, time
os.makedirs('/tmp/work', exist_ok=True)
open('/tmp/work/model.bin', 'wb').write(bytes(30 << 20))
open('/tmp/work/results.csv', 'w').write('a,b\\n' * 1000)
open({("/tmp/" + HOSTILE)!r}, 'w').write('x');"""
OTHER = "%%container --name other --keep --memory 100m\n1"
SHORTLY = "%%container --name shortly --background\nimport time\nprint('hi')\ntime.sleep(600)"
BUSY = """%%container --name busy --background --memory 256m --cpus 0.8 --pids-limit 24
import math, os, subprocess, time
for turn in range(200):
    size = int(70 + 60 * math.sin(turn / 5))
    kept = bytearray(os.urandom(1 << 20)) * size
    open('/tmp/results.bin', 'ab').write(bytes(1 << 20))
    for _ in range(turn % 9):
        subprocess.Popen(['sleep', '1'])
    sum(range(int(2e6 * (1.2 + math.cos(turn / 4)))))
    time.sleep(0.25)"""
CONTAINERFILE = """\
FROM scratch
COPY root /
RUN mkdir -p /srv/app/old && echo one > /srv/app/settings.ini && touch /srv/app/old/a /srv/app/log
RUN dd if=/dev/zero of=/srv/app/data.bin bs=1024 count=600
RUN rm /srv/app/data.bin && echo two > /srv/app/read.me
"""
CHANGES = """%%container stack --name stacked --keep --memory 100m --program sh
echo more >> /srv/app/settings.ini
rm /srv/app/log
rm -r /srv/app/old && mkdir /srv/app/old && echo now > /srv/app/old/b
dd if=/dev/zero of=/srv/app/results.csv bs=1024 count=40"""


@pytest.fixture(scope="module")
def notebook(page_of_the_file: LabPage, lab: Lab) -> Iterator[LabPage]:
    """One notebook with the magics and two kept containers, for all tests of this file."""
    page = page_of_the_file
    page.page.on("request", lambda request: page.requests.append(request.url))
    page.new_notebook(PLAIN)
    page.run("%load_ext sandbox_kernel")
    page.run(HELD)
    page.run(OTHER)
    page.run(SHORTLY)
    stack = lab.folder / "stack"
    make_root(stack / "root")
    (stack / "Containerfile").write_text(CONTAINERFILE)
    page.run("%container build --tag stack stack", seconds=120)
    page.run(CHANGES)
    yield page
    page.run(f"%container rm {NAME} other stacked")


@pytest.fixture(scope="module")
def held(notebook: LabPage) -> Iterator[Container]:
    """The container that is looked at, seen from outside."""
    found = container.find(NAME)
    yield found
    found.close()


def shown(page: LabPage, name: str, reference: str = NAME) -> Locator:
    """The view below a new cell."""
    cell = page.start(f"%container show {name} {reference}".strip())
    page.wait_for_end(cell)
    view = cell.locator(f".jp-OutputArea .sandbox-{name}")
    expect(view).to_have_attribute("data-state", "live")
    view.scroll_into_view_if_needed()
    return view


def test_a_dragged_limit_is_in_the_kernels_file(notebook: LabPage, held: Container) -> None:
    view = shown(notebook, "limits")
    line = view.get_by_role("slider", name="limit of Memory")
    expect(line).to_have_attribute("aria-valuetext", "300 MiB")
    assert limit(held, "memory") == 300 * MIB

    drag(line, 12)
    until(lambda: limit(held, "memory") != 300 * MIB)
    after = limit(held, "memory")
    assert after is not None
    assert 60 * MIB < after < 300 * MIB
    expect(line).to_have_attribute("aria-valuenow", str(int(after)))
    expect(view.get_by_role("meter", name="Memory")).to_have_attribute(
        "aria-valuetext", re.compile(re.escape(f"of {after / MIB:.4g} MiB"))
    )


def test_a_limit_is_changed_while_a_cell_of_the_notebook_runs(
    notebook: LabPage, held: Container
) -> None:
    view = shown(notebook, "limits")
    line = view.get_by_role("slider", name="limit of Memory")
    before = limit(held, "memory")
    busy = notebook.start("import time; time.sleep(120)")
    expect(notebook.page.locator("#jp-main-statusbar")).to_contain_text("| Busy")
    line.scroll_into_view_if_needed()

    drag(line, 8)
    until(lambda: limit(held, "memory") != before)
    expect(line).to_have_attribute("aria-valuenow", str(int(limit(held, "memory") or 0)))

    expect(busy.locator(".jp-InputPrompt")).to_have_text("[*]:")
    notebook.interrupt()
    notebook.wait_for_end(busy)


def test_a_limit_below_what_is_used_goes_back_and_says_why(
    notebook: LabPage, held: Container
) -> None:
    view = shown(notebook, "limits")
    before = limit(held, "memory")
    line = view.get_by_role("slider", name="limit of Memory")
    line.focus()
    notebook.page.keyboard.press("Home")
    notebook.page.keyboard.press("Enter")
    expect(view.get_by_role("alert")).to_contain_text("--memory")
    expect(line).to_have_attribute("aria-valuenow", str(int(before or 0)))
    assert limit(held, "memory") == before


def test_keys_change_a_limit_and_the_page_keeps_the_focus(
    notebook: LabPage, held: Container
) -> None:
    view = shown(notebook, "limits")
    line = view.get_by_role("slider", name="limit of Processes")
    line.focus()
    for _ in range(3):
        notebook.page.keyboard.press("ArrowUp")
    until(lambda: limit(held, "pids_limit") == 67)
    expect(line).to_have_attribute("aria-valuenow", "67")
    expect(line).to_be_focused()


def test_a_limit_that_another_program_changes_is_seen(notebook: LabPage, held: Container) -> None:
    view = shown(notebook, "limits")
    held.set_limits(cpus=0.25)
    expect(view.get_by_role("slider", name="limit of CPU")).to_have_attribute(
        "aria-valuenow", "0.25"
    )
    if notebook.images is not None:
        picture_of_a_busy_container(notebook)


def picture_of_a_busy_container(notebook: LabPage) -> None:
    """For the documentation alone: it takes as long as it shows."""
    notebook.run(BUSY)
    view = shown(notebook, "limits", "busy")
    notebook.page.wait_for_timeout(25_000)
    notebook.picture_of(view, "widget-limits")
    notebook.use_theme("JupyterLab Dark")
    notebook.picture_of(view, "widget-limits-dark")
    notebook.use_theme("JupyterLab Light")
    notebook.run("_container.cancel()")


def test_namespaces_are_those_of_the_kernel_and_a_click_looks_inside(
    notebook: LabPage, held: Container
) -> None:
    view = shown(notebook, "namespaces")
    for kind, inode in namespaces.inodes(held.pid).items():
        box = view.locator(".sandbox-box").filter(has_text=NAME)
        expect(box.locator(f".sandbox-kind-{kind}")).to_contain_text(str(inode))
    sides = view.locator(".sandbox-sides")
    expect(sides).to_contain_text(f"inside {NAME}")
    expect(sides.get_by_role("row", name="host name")).to_contain_text(os.uname().nodename)
    notebook.picture_of(view, "widget-namespaces")

    view.get_by_role("button", name="look into other").click()
    expect(sides).to_contain_text("inside other")
    expect(view.get_by_role("button", name="look into other")).to_have_attribute(
        "aria-pressed", "true"
    )


def test_a_file_appears_and_goes_and_its_name_is_only_text(
    notebook: LabPage, held: Container
) -> None:
    view = shown(notebook, "layers")
    expect(view).to_contain_text("/tmp/work/results.csv")
    expect(view).to_contain_text(HOSTILE)
    assert view.locator("img").count() == 0
    made = "/tmp/work/just made"
    notebook.run(f"%%container --name {NAME}\nopen({made!r}, 'w').write('x' * 2048)")
    row = view.get_by_role("row").filter(has_text=made)
    expect(row).to_contain_text("2 KiB")
    notebook.run(f"%%container --name {NAME}\nimport os\nos.unlink({made!r})")
    expect(row).to_have_count(0)
    assert notebook.page.title() != "owned"


def test_copied_removed_and_replaced_names_stand_above_the_layers_that_have_them(
    notebook: LabPage,
) -> None:
    view = shown(notebook, "layers", "stacked")
    rows = view.locator(".sandbox-names tbody tr")
    for path, word in (
        ("/srv/app/settings.ini", "copied up"), ("/srv/app/log", "removed"),
        ("/srv/app/old", "replaced"), ("/srv/app/results.csv", "new"),
    ):  # fmt: skip
        cell = notebook.page.get_by_role("cell", name=path, exact=True)
        expect(rows.filter(has=cell)).to_contain_text(word)
    expect(view.locator(".sandbox-slabs > li")).to_have_count(4)
    expect(view.locator(".sandbox-slabs")).to_contain_text("600 KiB wasted")
    expect(view.locator(".sandbox-slabs")).to_contain_text("dd if=/dev/zero")
    notebook.picture_of(view, "widget-layers")
    view.get_by_role("button", name="removed 1").click()
    expect(rows).to_have_count(1)


def test_the_administrator_sees_all_and_ends_one(notebook: LabPage) -> None:
    view = shown(notebook, "containers", "")
    for name in (NAME, "other", "shortly"):
        expect(view.get_by_role("row").filter(has_text=name).first).to_contain_text("running")
    row = view.locator("tr[data-id]").filter(has_text=NAME)
    expect(row).to_contain_text("of 64 MiB")
    notebook.picture_of(view, "widget-containers")
    stop = view.get_by_role("button", name="stop: shortly")
    stop.click()
    expect(stop).to_have_text("really stop?")
    stop.click()
    expect(view.locator("tr[data-id]").filter(has_text="shortly")).to_have_count(0)


def test_it_speaks_chinese(notebook: LabPage) -> None:
    cell = notebook.start(
        f"from sandbox_kernel.widgets import Limits\nLimits({NAME!r}, language='zh')"
    )
    view = cell.locator(".sandbox-limits")
    expect(view.get_by_role("meter", name="内存")).to_be_visible()
    expect(view.get_by_role("status")).to_have_text("实时")
    view.scroll_into_view_if_needed()
    notebook.picture_of(view, "widget-limits-zh")


def test_everybody_can_use_them_in_light_and_in_dark(notebook: LabPage) -> None:
    views = [shown(notebook, name) for name in ("limits", "namespaces")]
    views.append(shown(notebook, "layers", "stacked"))
    views.append(shown(notebook, "containers", ""))
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        notebook.use_theme(theme)
        for view in views:
            view.scroll_into_view_if_needed()
            name = (view.get_attribute("class") or "").rpartition("sandbox-")[2]
            view.evaluate("view => view.setAttribute('data-own-looked-at', '')")
            found = Axe().run(notebook.page, context="[data-own-looked-at]")
            view.evaluate("view => view.removeAttribute('data-own-looked-at')")
            assert found.violations_count == 0, f"{name}, {theme}: {found.generate_report()}"


def test_nothing_was_asked_of_other_hosts(notebook: LabPage, lab: Lab) -> None:
    others = [url for url in notebook.requests if not url.startswith((lab.url, "blob:", "data:"))]
    assert others == []

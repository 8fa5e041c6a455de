"""What a notebook author does with "Sandbox (Python 3)" in JupyterLab, by mouse and keys."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from lab_page import Lab, LabPage
from playwright.sync_api import expect

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
KERNEL = "Sandbox (Python 3)"
SECONDS = 20.0

PLOT = """\
import matplotlib.pyplot as plt
import numpy as np

x = np.linspace(0, 6, 200)
plt.figure(figsize=(6, 2.4))
plt.plot(x, np.sin(x), label="sin")
plt.plot(x, np.cos(x), label="cos")
plt.legend()
plt.show()"""

SLIDER = """\
import ipywidgets

slider = ipywidgets.IntSlider(value=3, min=0, max=10)
slider"""

LOOP = """\
def rising(limit):
    total = 0
    for number in range(limit):
        total = total + number
    return total

print(rising(4))"""


def test_the_first_notebook_runs_to_its_end_and_says_why_it_ended(page: LabPage, lab: Lab) -> None:
    shutil.copy(NOTEBOOKS / "en/00-first-sandbox.ipynb", lab.folder)
    page.open_notebook(lab.url, "00-first-sandbox.ipynb")

    page.run_all()
    ended = page.page.locator(".jp-OutputArea-output").filter(has_text="OutOfMemory").first
    ended.wait_for()

    assert "the limit is 256 MiB" in ended.inner_text()
    page.page.locator(".jp-Dialog .jp-mod-accept").click()  # "it will restart automatically"
    page.wait_until_idle()
    ended.scroll_into_view_if_needed()
    page.picture("first-sandbox")


def test_cells_run_and_a_plot_appears(page: LabPage) -> None:
    page.new_notebook(KERNEL)

    assert page.run("6 * 7").strip().endswith("42")
    cell = page.start(PLOT)
    page.wait_for_end(cell)
    picture = cell.locator(".jp-RenderedImage img")
    picture.wait_for()

    assert picture.evaluate("image => image.complete && image.naturalWidth > 300")
    page.picture("plot")


def expect_value(page: LabPage, value: str) -> None:
    """A widget sends what it has become when the kernel has taken what it was before."""
    deadline = time.monotonic() + SECONDS
    while not page.run("slider.value").strip().endswith(value):
        assert time.monotonic() < deadline


def test_a_slider_and_its_value_agree_in_both_directions(page: LabPage) -> None:
    page.new_notebook(KERNEL)
    cell = page.start(SLIDER)
    handle = cell.locator(".noUi-handle")
    handle.wait_for()

    handle.focus()
    for _ in range(4):
        page.page.keyboard.press("ArrowRight")
    expect(cell.locator(".widget-readout")).to_have_text("7")
    expect_value(page, "7")

    box = cell.locator(".noUi-base").bounding_box()
    knob = handle.bounding_box()
    assert box
    assert knob
    page.page.mouse.move(knob["x"] + knob["width"] / 2, knob["y"] + knob["height"] / 2)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + 2, knob["y"] + knob["height"] / 2, steps=8)
    page.page.mouse.up()
    expect(cell.locator(".widget-readout")).to_have_text("0")
    expect_value(page, "0")

    page.run("slider.value = 9")
    expect(cell.locator(".widget-readout")).to_have_text("9")
    page.picture("slider")


def test_the_debugger_stops_at_a_breakpoint_and_goes_on(page: LabPage) -> None:
    page.new_notebook(KERNEL)
    page.enable_debugger()
    cell = page.write(LOOP)
    page.toggle_breakpoint(cell, line=4)
    page.page.keyboard.press("Shift+Enter")

    page.expect_stop("rising", limit="4", number="0", total="0")
    page.picture("debugger")
    page.continue_debugging()
    page.expect_stop("rising", number="1")
    page.toggle_breakpoint(cell, line=4)
    page.continue_debugging()

    page.wait_for_end(cell)
    assert page.output(cell).strip() == "6"


def test_a_busy_cell_can_be_interrupted_and_the_state_stays(page: LabPage) -> None:
    page.new_notebook(KERNEL)
    page.run("kept = 'still here'")
    cell = page.start("print('busy')\nwhile True:\n    pass")
    expect(cell.locator(".jp-OutputArea-output")).to_contain_text("busy")

    page.interrupt()
    page.wait_for_end(cell)

    assert "KeyboardInterrupt" in page.output(cell)
    page.picture("interrupt")
    assert "still here" in page.run("kept")


def test_a_restart_forgets_everything(page: LabPage) -> None:
    page.new_notebook(KERNEL)
    page.run("kept = 'not for long'")

    page.restart()
    page.wait_until_idle()

    assert "NameError" in page.run("kept")

"""The live view of use against limits in JupyterLab: its numbers change while a cell is busy."""

from __future__ import annotations

import json
import re

import pytest
from lab_page import Lab, LabPage
from playwright.sync_api import Locator, expect

PLAIN = "Python 3 (ipykernel)"
SANDBOX = "Sandbox (Python 3)"
# A cell that allocates step by step, then holds the interpreter's lock in one long call of C.
GROWING = """\
import re, time
kept = []
for step in range(12):
    kept.append(bytearray(10 << 20))
    sum(range(3_000_000))
re.match("(a+)+b", "a" * {length})
print("done")"""


def of_the_view(cell: Locator) -> Locator:
    """The live view below a cell."""
    return cell.locator(".sandbox-limits")


def meter(view: Locator, name: str) -> Locator:
    return view.get_by_role("meter", name=name)


def expect_numbers_to_move(page: LabPage, cell: Locator) -> None:
    """Memory and CPU are shown against their limits, and change."""
    view = of_the_view(cell)
    expect(view).to_have_attribute("data-state", "live")
    expect(view.get_by_role("status")).to_have_text("live")
    expect(meter(view, "Memory")).to_have_attribute("aria-valuetext", re.compile("of 300 MiB"))
    expect(meter(view, "CPU")).to_have_attribute(
        "aria-valuetext", re.compile(r"0\.\d\d of 0\.5 processors")
    )
    expect(meter(view, "Processes")).to_have_attribute("aria-valuetext", re.compile("of 64"))
    seen = set()
    for _ in range(4):
        words = meter(view, "CPU").get_attribute("aria-valuetext") or ""
        seen.add(words)
        expect(meter(view, "CPU")).not_to_have_attribute("aria-valuetext", words)
    assert len(seen) == 4
    expect(view).to_contain_text(re.compile(r"1[2-9]\d(\.\d)? MiB\s+of 300 MiB"))
    page.page.wait_for_function(
        "view => view.querySelector('polyline').points.numberOfItems > 12",
        arg=view.element_handle(),
    )


@pytest.fixture
def requests(page: LabPage) -> list[str]:
    """The addresses that the page asks for from now on."""
    seen: list[str] = []
    page.page.on("request", lambda request: seen.append(request.url))
    return seen


def test_show_limits_is_live_while_the_cell_runs(
    page: LabPage, lab: Lab, requests: list[str]
) -> None:
    page.new_notebook(PLAIN)
    page.run("%load_ext sandbox_kernel")
    cell = page.start(
        "%%container --memory 300m --cpus 0.5 --pids-limit 64 --show limits\n"
        + GROWING.format(length=27)
    )
    expect_numbers_to_move(page, cell)
    view = of_the_view(cell)
    assert [url for url in requests if not url.startswith((lab.url, "blob:", "data:"))] == []

    page.interrupt()
    page.wait_for_end(cell)
    expect(view).to_have_attribute("data-state", "ended")
    expect(view.get_by_role("status")).to_contain_text("the cell ended")

    page.save()
    saved = saved_output(lab)
    assert "of 300 MiB" in saved["text/plain"]
    assert "the cell ended" in "".join(saved["text/html"])
    assert "application/vnd.jupyter.widget-view+json" not in saved


def saved_output(lab: Lab) -> dict[str, str]:
    """The view's output in the notebook's file."""
    (file,) = lab.folder.glob("Untitled*.ipynb")
    notebook = json.loads(file.read_text())
    (data,) = [
        {kind: "".join(text) for kind, text in output["data"].items()}
        for cell in notebook["cells"]
        for output in cell.get("outputs", ())
        if output["output_type"] == "display_data"
    ]
    return data


def test_top_of_the_sandbox_kernel_is_live_while_the_inside_is_busy(page: LabPage) -> None:
    page.new_notebook(SANDBOX)
    page.run("%sandbox --memory 300m --cpus 0.5 --pids-limit 64")
    top = page.start("%container top")
    of_the_view(top).wait_for()
    cell = page.start(GROWING.format(length=60))
    expect_numbers_to_move(page, top)
    if page.images is not None:  # the cell that asks, its view and the busy cell in one picture
        page.page.wait_for_timeout(8000)
        top.evaluate("cell => cell.scrollIntoView({block: 'start'})")
        page.page.wait_for_timeout(1000)
        page.picture("limits")

    page.interrupt()
    page.wait_for_end(cell)
    page.save()
    page.page.reload()  # the page has to ask for the state anew
    page.page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    page.wait_until_idle()
    top = page.page.locator(".jp-Notebook .jp-CodeCell").nth(1)
    view = of_the_view(top)
    expect(view).to_have_attribute("data-state", "live")
    words = meter(view, "CPU").get_attribute("aria-valuetext") or ""
    page.start("sum(range(30_000_000))")
    view.scroll_into_view_if_needed()  # what nobody sees is not kept up to date
    expect(meter(view, "CPU")).not_to_have_attribute("aria-valuetext", words)


def test_it_can_be_read_in_light_and_in_dark(page: LabPage) -> None:
    page.new_notebook(SANDBOX)
    view = of_the_view(page.start("%container top"))
    meter(view, "Memory").wait_for()
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        page.use_theme(theme)
        for text in (".sandbox-numbers b", ".sandbox-percent", ".sandbox-notes", ".sandbox-status"):
            assert contrast(view.locator(text).first) > 4.5, theme


def contrast(text: Locator) -> float:
    """The contrast between the text and what lies behind it, as WCAG defines it."""
    colours = text.evaluate(
        """element => {
          const behind = [];
          for (let at = element; at; at = at.parentElement) {
            behind.push(getComputedStyle(at).backgroundColor);
          }
          const shown = behind.find((colour) => !/, 0\\)$/.test(colour)) ?? "rgb(255, 255, 255)";
          return [getComputedStyle(element).color, shown];
        }"""
    )
    light, dark = sorted(map(luminance, colours), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [float(part) / 255 for part in re.findall(r"[\d.]+", colour)[:3]]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue

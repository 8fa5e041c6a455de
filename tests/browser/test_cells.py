"""What a notebook author does with "Sandbox Cells (Python 3)" in JupyterLab, in both modes."""

from __future__ import annotations

from lab_page import LabPage
from playwright.sync_api import expect

KERNEL = "Sandbox Cells (Python 3)"

PLOT = """\
import matplotlib.pyplot as plt

plt.figure(figsize=(6, 1.6))
plt.plot([scale * n * n for n in range(20)])
plt.show()"""

TABLE = """\
import os

prices = {"tea": 3, "coffee": 4}
with open("/tmp/prices.csv", "w") as file:
    file.writelines(f"{name},{price}\\n" for name, price in prices.items())
os.listdir("/tmp")"""


def test_fresh_cells_share_nothing_but_what_is_named(page: LabPage) -> None:
    page.new_notebook(KERNEL)

    page.run("secret = 'of this cell'\nopen('/tmp/note', 'w').close()")
    assert "NameError" in page.run("print(secret)")
    assert "False" in page.run("import os; os.path.exists('/tmp/note')")
    page.run("%sandbox share scale")
    page.run("scale = 2")
    cell = page.start(PLOT)
    page.wait_for_end(cell)
    picture = cell.locator(".jp-RenderedImage img")
    picture.wait_for()
    assert picture.evaluate("image => image.complete && image.naturalWidth > 300")
    page.picture("cells-fresh")
    assert "42" in page.run("scale *= 21\nscale")


def test_a_destructive_cell_is_undone(page: LabPage) -> None:
    page.new_notebook(KERNEL)
    assert "mode carry" in page.run("%sandbox mode carry")
    assert "prices.csv" in page.run(TABLE)

    page.run("!rm -rf /tmp/*\ndel prices")
    assert "NameError" in page.run("prices")
    assert "taken back: 1 cell" in page.run("%sandbox undo")

    seen = page.run("print(prices)\nprint(open('/tmp/prices.csv').read())")
    assert "{'tea': 3, 'coffee': 4}" in seen
    assert "coffee,4" in seen
    page.picture("cells-undo")


def test_a_cell_that_is_interrupted_leaves_the_state_as_it_was(page: LabPage) -> None:
    page.new_notebook(KERNEL)
    page.run("%sandbox mode carry")
    page.run("numbers = [1, 2, 3]")
    cell = page.start("numbers.clear()\nprint('busy')\nwhile True:\n    pass")
    expect(cell.locator(".jp-OutputArea-output")).to_contain_text("busy")

    page.interrupt()
    page.wait_for_end(cell)

    assert "KeyboardInterrupt" in page.output(cell)
    assert "[1, 2, 3]" in page.run("numbers")


def test_a_restart_begins_anew(page: LabPage) -> None:
    page.new_notebook(KERNEL)
    page.run("%sandbox mode carry")
    page.run("kept = 'not for long'")

    page.restart()
    page.wait_until_idle()

    assert "NameError" in page.run("kept")

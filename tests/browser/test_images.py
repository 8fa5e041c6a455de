"""Images in JupyterLab: a pull, a build, what is in an image, kernels in images of two systems."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator

import built_images
import hostile_registry
import musl_root
import nbformat
import psutil
import pytest
import python_rootfs
from lab_page import Lab, LabPage
from playwright.sync_api import expect

ORDINARY = "Python 3 (ipykernel)"
CONTAINERFILE = """%%container build -t rain:1 context
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "ln", "-s", "busybox", "/bin/sh"]
COPY rain.csv /data/rain.csv
RUN busybox sort -n /data/rain.csv > /data/sorted.csv && busybox rm /data/rain.csv
CMD ["/bin/busybox", "cat", "/data/sorted.csv"]"""


@pytest.fixture(autouse=True)
def _compiled(lab: Lab) -> Iterator[None]:
    """What compiles a kernel layer sees between two files that its kernel has ended."""
    yield
    home = str(lab.folder.parent)
    for process in psutil.process_iter(["cmdline"]):
        if "bytecode.main" in " ".join(process.info["cmdline"] or []):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.environ().get("HOME") == home:
                    process.wait(60)


@pytest.fixture
def held(lab: Lab) -> Iterator[tuple[hostile_registry.Server, threading.Event]]:
    """A registry that gives a part of two of its layers, and the rest when the event is set."""
    go_on = threading.Event()
    image = hostile_registry.image(
        *({f"layer-{number}": os.urandom(size << 10)} for number, size in enumerate((700, 400, 90)))
    )

    def half(blob: bytes) -> hostile_registry.Answer:
        def answer(handler: hostile_registry.Handler) -> None:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(blob)))
            handler.end_headers()
            third = len(blob) // 3
            handler.wfile.write(blob[:third])
            go_on.wait(0.3)  # so that what is told of it is told twice
            handler.wfile.write(blob[third : 2 * third])
            go_on.wait(60)
            handler.wfile.write(blob[2 * third :])

        return answer

    with hostile_registry.Server(image) as server:
        for blob in image.layers[:2]:
            server.answers["GET", server.path_of(blob)] = half(blob)
        config = lab.folder.parent / ".config/sandbox-kernel/config.toml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(f'[ceiling]\nimage = ["{server.authority}/*", "rain:1"]\n')
        try:
            yield server, go_on
        finally:
            go_on.set()
            config.unlink()


def test_a_pull_a_build_and_what_is_in_an_image(
    page: LabPage, lab: Lab, held: tuple[hostile_registry.Server, threading.Event]
) -> None:
    server, go_on = held
    page.new_notebook(ORDINARY)
    page.run("%load_ext sandbox_kernel")
    pull = page.start(f"%container pull {server.name}")
    bars = pull.locator("progress")
    expect(pull.locator("table")).to_contain_text("done")
    expect(bars).to_have_count(3)
    expect(pull.locator("table")).to_contain_text("downloading")
    page.picture("image-pull")
    go_on.set()
    page.wait_for_end(pull)
    assert "3/3 layers" in page.output(pull)
    assert f"{server.name}@sha256:" in page.output(pull)
    assert all(bar.evaluate("bar => bar.position") == 1 for bar in bars.all())

    context = lab.folder / "context"
    context.mkdir()
    shutil.copy(built_images.BUSYBOX, context / "busybox")
    (context / "rain.csv").write_text("12\n3\n7\n")
    assert "rain:1" in page.run(CONTAINERFILE)
    ran = page.run("%%container rain:1 --program sh\nbusybox cat /data/sorted.csv")
    assert ran.strip().endswith("3\n7\n12")
    page.picture("image-build")
    shown = page.run("%container history rain:1")
    assert "COPY rain.csv /data/rain.csv" in shown
    tree = page.start("%container tree rain:1")
    page.wait_for_end(tree)
    tree.locator("summary").last.click()
    expect(tree).to_contain_text("/data/rain.csv")
    page.picture("image-tree")


@pytest.mark.parametrize("system", ["alpine", "debian"])
def test_a_kernel_in_an_image_without_ipykernel(page: LabPage, lab: Lab, system: str) -> None:
    """One image has the C library musl and Alpine's Python, the other what Debian has."""
    make = {"alpine": musl_root.make, "debian": python_rootfs.make}[system]
    make(lab.folder / system)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("")])
    notebook.metadata = {
        "kernelspec": {"name": "sandbox-python3", "display_name": "Sandbox (Python 3)"},
        "sandbox_kernel": {"image": f"dir:./{system}"},
    }
    path = lab.folder / f"{system}.ipynb"
    nbformat.write(notebook, path)
    page.open_notebook(lab.url, path.name)
    assert page.run("open('/etc/os-release').read().split()[0]").endswith(f"'ID={system}'")
    said = "print(*{each for each in open('/proc/self/maps').read().split() if '/ld-' in each})"
    loader = page.run(said)
    assert loader.strip().endswith("/ld-musl-x86_64.so.1" if system == "alpine" else "64.so.2")
    assert page.run("import ipykernel, zmq\nprint(ipykernel.__file__)").startswith("/opt/sandbox-")
    assert "ZeroDivisionError" in page.run("1 / 0")
    if system == "alpine":
        page.picture("kernel-alpine")

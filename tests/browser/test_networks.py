"""Two notebooks in JupyterLab, one network, two containers: names, a connection, its packets."""

from __future__ import annotations

import nbformat
from lab_page import Lab, LabPage
from playwright.sync_api import expect

SERVER = """%%container --network lesson --name web --background --wait-port 8080
from http.server import HTTPServer, SimpleHTTPRequestHandler
HTTPServer(("", 8080), SimpleHTTPRequestHandler).serve_forever()"""
PUBLISHED = SERVER.replace(
    "--network lesson --name web", "--network lesson --name shown --publish 8080"
)
CLIENT = """%%container --network lesson --name client
import socket, urllib.request
print(socket.gethostbyname("web"))
print(urllib.request.urlopen("http://web:8080/").status)"""


def written(lab: Lab, name: str) -> str:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("")])
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(notebook, lab.folder / name)
    return name


def test_two_notebooks_share_a_network_and_one_sees_the_packets_of_the_other(
    page: LabPage, lab: Lab
) -> None:
    server, client = written(lab, "server.ipynb"), written(lab, "client.ipynb")
    page.open_notebook(lab.url, server)
    page.run("%load_ext sandbox_kernel")
    page.run(SERVER)

    # `?reset` shows that notebook alone, not beside those that were open before.
    page.open_notebook(lab.url, f"{client}?reset")
    page.run("%load_ext sandbox_kernel")
    page.run("%container capture web --background")
    address, status = page.run(CLIENT).split()
    assert address.count(".") == 3
    assert status == "200"

    cell = page.start("%container capture --stop")
    page.wait_for_end(cell)
    picture = cell.locator(".jp-OutputArea-output svg")
    expect(picture).to_be_visible()
    expect(picture.locator("text", has_text="web")).to_be_visible()
    expect(cell.get_by_role("cell", name="8080").first).to_be_visible()
    picture.scroll_into_view_if_needed()
    page.picture("network-capture")

    cell = page.start("%container net web")
    page.wait_for_end(cell)
    expect(cell.get_by_text("names asked for")).to_be_visible()
    expect(cell.get_by_role("cell", name="lesson", exact=True)).to_be_visible()
    cell.scroll_into_view_if_needed()
    page.picture("network-facts")
    assert page.run("%container stop web").strip() == "web"


def test_a_published_web_server_opens_through_jupyter(page: LabPage, lab: Lab) -> None:
    page.open_notebook(lab.url, f"{written(lab, 'published.ipynb')}?reset")
    page.run("%load_ext sandbox_kernel")
    cell = page.start(PUBLISHED)
    page.wait_for_end(cell)
    with page.page.expect_popup() as opened:
        cell.get_by_role("link", name="/proxy/").click()
    expect(opened.value.get_by_role("heading")).to_contain_text("Directory listing")
    opened.value.close()
    assert page.run("%container stop shown").strip() == "shown"

"""Links to the ports that a container publishes: as this machine has them, and through Jupyter.

Who looks at a notebook of a server elsewhere can't reach its loopback. Where jupyter-server-proxy
is there, the server passes on what is asked for below `proxy/PORT/`. A page that comes that way may
do what JupyterLab's own page may, so the link says so.
"""

from __future__ import annotations

import html
import importlib.util
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

PROXY = "jupyter_server_proxy"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - the one who publishes says so


def show(published: Iterable[Mapping[str, Any]]) -> None:
    """A line for each port, in a notebook."""
    from IPython.display import display

    base = _base_url()
    for port in published:
        found = list(_links(port, base))
        text = ", ".join(f"{address}{note}" for address, note in found)
        markup = ", ".join(_link(address) + note for address, note in found)
        inside = f"port {port['inside']}: "
        bundle = {"text/plain": inside + text, "text/html": inside + markup}
        display(bundle, raw=True)  # type: ignore[no-untyped-call]


def _links(port: Mapping[str, Any], base: str | None) -> Iterator[tuple[str, str]]:
    address = "127.0.0.1" if port["address"] == EVERYWHERE else port["address"]
    yield f"http://{address}:{port['port']}/", ""
    if base is not None and address == "127.0.0.1":
        note = " (through Jupyter: the page may then do what JupyterLab's page may)"
        yield f"{base}proxy/{port['port']}/", note


def _link(address: str) -> str:
    shown = html.escape(address)
    return f'<a href="{shown}" target="_blank" rel="noopener noreferrer">{shown}</a>'


def _base_url() -> str | None:
    """What stands before `proxy/` at the server of this kernel; None when it has no such thing.

    The server writes down where it listens: `jpserver-PID.json` in Jupyter's runtime folder.
    """
    server = os.environ.get("JPY_PARENT_PID", "")
    if not server.isdigit() or importlib.util.find_spec(PROXY) is None:
        return None
    from jupyter_core.paths import jupyter_runtime_dir

    try:
        with open(f"{jupyter_runtime_dir()}/jpserver-{server}.json", encoding="utf-8") as file:
            base = json.load(file)["base_url"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # another kind of server, or one that keeps its files elsewhere
    return base if isinstance(base, str) and base.startswith("/") else None

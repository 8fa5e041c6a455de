"""A frame for HTML that runs scripts: another origin than the page's, with no way out of it.

Its sandbox gives it an opaque origin: no cookies, no storage, no look at the page around it, no
forms, no windows. Its policy lets it fetch nothing at all. There are two of them, one within the
other, since a frame may always lead itself elsewhere, which would tell whoever listens there what
is in it: the policy of the outer one says where the inner one may go, and that is nowhere.
"""

from __future__ import annotations

import re

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; media-src data: blob:; worker-src 'none'; "
    "connect-src 'none'; frame-src 'none'; form-action 'none'; base-uri 'none'; webrtc 'block'"
)
_HEAD = (
    '<!doctype html><html><head><meta charset="utf-8">'
    f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    '<meta name="referrer" content="no-referrer"><meta http-equiv="x-dns-prefetch-control" '
    'content="off">'
)
_OUTER = (
    "<style>html,body{margin:0;height:100%;overflow:hidden}iframe{border:0}</style></head><body>"
)
_INNER = (
    "<style>html,body{height:100%;margin:0}body{font:13px/1.4 system-ui,sans-serif;"
    "background:#fff;color:#111}table.dataframe{border-collapse:collapse}"
    "table.dataframe td,table.dataframe th{padding:3px 6px;text-align:right}</style></head><body>"
)
DEFAULT_HEIGHT = 420
LEAST_HEIGHT, MOST_HEIGHT = 60, 1000
ROW_HEIGHT = 27
MOST_COUNTED = 1 << 20


def framed(body: str, height: int = DEFAULT_HEIGHT) -> str:
    """HTML that shows `body` in a frame of that many pixels, which the reader can draw longer."""
    inner = _frame(f"{_HEAD}{_INNER}{body}", 'width="100%" height="100%"')
    tall = max(LEAST_HEIGHT, min(height, MOST_HEIGHT))
    style = f"width:100%;height:{tall}px;border:0;resize:vertical;overflow:auto;background:#fff"
    return _frame(f"{_HEAD}{_OUTER}{inner}", f'style="{style}" title="output in a sandbox"')


def _frame(document: str, attributes: str) -> str:
    from html import escape  # with all names of characters, which is much for what is seldom needed

    return (
        f'<iframe sandbox="allow-scripts" referrerpolicy="no-referrer" {attributes} '
        f'srcdoc="{escape(document)}"></iframe>'
    )


def height_of(html: str) -> int:
    """A guess, since nothing tells the page how high the content of a foreign frame is."""
    if len(html) > MOST_COUNTED or re.search(
        r"<(?:script|canvas|svg|iframe)\b", html, re.IGNORECASE
    ):
        return DEFAULT_HEIGHT
    rows = len(re.findall(r"<(?:tr|p|li|br|h\d|div)\b", html, re.IGNORECASE))
    return min(600, 40 + ROW_HEIGHT * max(1, rows))

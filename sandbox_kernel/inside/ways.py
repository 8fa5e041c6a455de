"""In a template: what each kernel goes through, gone through here as far as it needs no thread.

What is worked out once for all, a kernel then finds: patterns that are compiled, names that
OpenSSL knows, attributes that the instances of a type have; and code that has adapted itself to
what it does is not written to any more. All that is made here is thrown away again.
"""

import glob
import os
import ssl
import tempfile
from types import SimpleNamespace
from typing import Any

from IPython.core.profiledir import ProfileDir
from jupyter_client.session import Session
from tornado.ioloop import IOLoop

TIMES = 16
"""So often code has run when it is adapted."""
CODE = "print('first')"
KEY = b"of nobody"


def go(shell: Any) -> None:
    """All of them; `shell` is the one that kernels will have."""
    ssl.RAND_add(os.urandom(32), 32.0)  # as in each child, which needs seeds of its own
    with tempfile.TemporaryDirectory() as folder:
        make_profile(os.path.join(folder, "profile"))
    for _ in range(TIMES):
        exchange_messages()
        run_loop()
        shell.transform_cell(CODE)


def make_profile(folder: str) -> None:
    """As in a container that has none yet; and what is looked for there."""
    ProfileDir.create_profile_dir(folder)
    for ending in ("*.py", "*.ipy"):
        glob.glob(os.path.join(folder, ending))


def exchange_messages() -> None:
    """A request, as it comes and is answered."""
    sent: Any = []
    stream = SimpleNamespace(send_multipart=lambda parts, copy=True: sent.append(parts))
    ours, theirs = Session(key=KEY), Session(key=KEY)
    request = theirs.msg("execute_request", {"code": CODE, "silent": False})
    theirs.send(stream, request, ident=b"somebody")
    idents, parts = ours.feed_identities(sent.pop())
    parent = ours.deserialize(parts)
    ours.send(stream, "stream", {"name": "stdout", "text": "first"}, parent, ident=b"stream")
    ours.send(stream, "execute_reply", {"status": "ok", "payload": []}, parent, ident=idents)


def run_loop() -> None:
    """One of tornado on one of asyncio, each of its own."""
    loop = IOLoop(make_current=False)
    loop.add_callback(loop.stop)
    loop.start()
    loop.close(all_fds=True)

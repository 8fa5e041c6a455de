"""The way of a kernel until its first cell is answered, gone in a fork of its template.

What the template learns by it stands at `template_memory.lay_together`. The kernel is the real one,
on sockets as the outside makes them, and a thread of the same process asks it; nobody's code runs
but the line below. The fork ends with the answer, and only the numbers of functions leave it.
"""

import fcntl
import json
import os
import socket
import threading

import zmq

from . import application, kernel

ASKED = (
    ("kernel_info_request", {}),
    ("execute_request", {"code": "print('first')", "silent": False, "store_history": True}),
    ("kernel_info_request", {}),
)
"""With the answer to the last, all is over that follows the answer to the second."""
KEY = "of a kernel that nobody else asks"
ABOVE = 32
"""Of the descriptors that a kernel gets."""


def of_a_kernel(told):
    """Becomes a kernel, and calls `told` when it has answered. Never returns."""
    names = {}
    for channel, number in application.CHANNELS.items():
        names[channel] = listen_on(number)
    # No memory file, which `--strict` allows nobody.
    reading, writing = os.pipe()
    os.write(writing, json.dumps({"key": KEY}).encode())
    os.close(writing)
    for number in (kernel.PROGRAM, kernel.CONFIGURATION):
        os.dup2(reading, number)
    threading.Thread(target=ask, args=(names, told), daemon=True).start()
    kernel.main()


def listen_on(number):
    """A listening socket with this number, which has no name in any folder; its abstract one."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")  # the kernel finds a name that is free (unix(7), autobind)
        listener.listen(1)
        name = listener.getsockname()
        moved = fcntl.fcntl(listener.fileno(), fcntl.F_DUPFD, ABOVE)
    os.dup2(moved, number)
    os.close(moved)
    return "ipc://@" + name[1:].decode()


def ask(names, told):
    """What a front end asks first, and waits for."""
    from jupyter_client.session import Session

    session = Session(key=KEY.encode())
    context = zmq.Context()
    hearing, shell = context.socket(zmq.SUB), context.socket(zmq.DEALER)
    hearing.subscribe(b"")
    hearing.connect(names["iopub"])
    shell.connect(names["shell"])
    for kind, content in ASKED:
        session.send(shell, kind, content)
        shell.recv_multipart()
    told()
    os._exit(0)

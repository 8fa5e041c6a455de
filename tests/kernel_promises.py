"""What becomes of cells, whatever wall the kernel is behind: interrupts, errors, questions.

`test_kernel_life.py` gives them a kernel of ours, `test_walls_in_notebooks.py` one behind each
other wall.
"""

from __future__ import annotations

import os
import signal

import kernels
from kernels import Kernel, text_of


def test_a_busy_cell_is_interrupted_and_its_variables_stay(kernel: Kernel) -> None:
    kernel.run("kept = 42")
    cell = kernel.client.execute("print('on', flush=True)\nwhile True: pass")
    kernel.wait_for("stream", "on")
    kernel.manager.interrupt_kernel()

    reply, _ = kernel.finish(cell)
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    assert text_of(kernel.run("print(kept)")[1]) == "42\n"


def test_a_sigint_to_the_relay_interrupts_the_cell(kernel: Kernel) -> None:
    # Short sleeps: a signal just before a system call is seen only when the call is over.
    waiting = "import time\nprint('on', flush=True)\nfor _ in range(600): time.sleep(0.1)"
    cell = kernel.client.execute(waiting)
    kernel.wait_for("stream", "on")
    os.kill(kernel.pid, signal.SIGINT)

    assert kernel.finish(cell)[0]["content"]["ename"] == "KeyboardInterrupt"


def test_an_interrupt_while_nothing_runs_changes_nothing(kernel: Kernel) -> None:
    kernel.control("interrupt_request", {})
    assert text_of(kernel.run("print(1)")[1]) == "1\n"


def test_after_an_error_the_queued_cells_are_aborted(kernel: Kernel) -> None:
    first = kernel.client.execute("import time; time.sleep(0.5); 1/0")
    second = kernel.client.execute("print('never')")

    assert kernel.finish(first)[0]["content"]["ename"] == "ZeroDivisionError"
    assert kernel.finish(second)[0]["content"]["status"] == "aborted"


def test_the_reply_tells_what_the_cell_used(kernel: Kernel) -> None:
    reply, _ = kernel.run("x = sum(range(3_000_000))")
    assert reply["metadata"]["sandbox_kernel"]["usage"]["cpu_seconds"] > 0.01


def test_81_input_is_asked_only_where_the_client_allows_it(kernel: Kernel) -> None:
    cell = kernel.client.execute("print('hello', input('name? '))", allow_stdin=True)
    question = kernel.client.get_stdin_msg(timeout=kernels.SECONDS)
    assert question["content"] == {"prompt": "name? ", "password": False}
    kernel.client.input("Ada")
    assert text_of(kernel.finish(cell)[1]) == "hello Ada\n"

    reply, _ = kernel.run("input()", allow_stdin=False)
    assert reply["content"]["ename"] == "StdinNotImplementedError"


def test_73_a_forged_reply_and_a_forged_idle_end_nothing_but_their_own_cell(
    kernel: Kernel,
) -> None:
    code = (
        "k = get_ipython().kernel\n"
        "forged = {'header': {'msg_id': 'x', 'msg_type': 'execute_request', 'session': 's'}}\n"
        "kinds = ('shutdown_reply', 'kernel_info_reply', 'status', 'execute_input', 'stream')\n"
        "for kind in kinds:\n"
        "    k.session.send(k.iopub_socket, kind, {'execution_state': 'idle'}, parent=forged)\n"
        "print('done')"
    )
    _, outputs = kernel.run(code)
    assert text_of(outputs) == "done\n"
    assert [m["msg_type"] for m in outputs].count("status") == 2
    assert text_of(kernel.run("print('next')")[1]) == "next\n"

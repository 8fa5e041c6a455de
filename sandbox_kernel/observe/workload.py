"""What is run behind each wall that is compared: it says what it sees, and works when it is told.

Text for a Python of any image. It writes one line of JSON when it has begun, waits for SIGINT, does
the work, writes another line, and waits to be ended.
"""

from __future__ import annotations

MARK_OF_FILE = "seen-from-outside-"
CALLS = 200
"""How many times it asks for each of three things: its parent, a file's facts, a file's content."""
LONGEST_LINE = 4096

CODE = f"""
import json, os, tempfile, time
def wait():
    try:
        while True:
            time.sleep(60)
    except KeyboardInterrupt:
        pass
path = os.path.join(tempfile.gettempdir(), "{MARK_OF_FILE}" + MARK)
mark = open(path, "w")
os.unlink(path)
files = sum(1 for _ in os.scandir("/"))
processes = sum(name.isdigit() for name in os.listdir("/proc"))
kernel = os.uname()
print(json.dumps({{"files": files, "processes": processes, "kernel": kernel.release,
                  "host": kernel.nodename, "pid": os.getpid()}}), flush=True)
wait()
for _ in range({CALLS}):
    os.getppid()
    os.stat("/")
    with open("/proc/version") as file:
        file.read()
print(json.dumps({{"done": True}}), flush=True)
wait()
"""


def code(mark: str) -> str:
    """The text, with the mark by which its open file is known from outside."""
    return f"MARK = {mark!r}\n{CODE}"

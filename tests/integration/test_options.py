"""Every option does in a real container what its help says; looked at from inside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox_kernel import settings

pytestmark = pytest.mark.everybody

COMMAND = [sys.executable, "-m", "sandbox_kernel.cli.main", "run"]
TRIED: dict[str, list[tuple[list[str], str, str]]] = {
    "image": [([], "test -x /usr/bin/env && ls /home", "sandbox\n")],
    "memory": [(["-m", "64m"], "exec python -c 'bytearray(256 << 20)'", "status 137")],
    "memory_swap": [(["-m64m", "--memory-swap=64m"], "echo hi", "hi\n")],
    "cpus": [(["--cpus=0.5"], "echo hi", "hi\n")],
    "cpuset_cpus": [(["--cpuset-cpus", "0"], "nproc", "1\n")],
    "cpu_shares": [(["-c", "512"], "echo hi", "hi\n")],
    "pids_limit": [(["--pids-limit", "32"], "echo hi", "hi\n")],
    "ulimit": [(["--ulimit", "nofile=64:99"], "ulimit -n; ulimit -Hn", "64\n99\n")],
    "storage_size": [
        (["--storage-size=2m"], "head -c 9m /dev/zero > /tmp/x 2>/dev/null; echo $?", "1\n")
    ],
    "timeout": [(["--timeout=300ms"], "sleep 60", "status 124")],
    "network": [
        ([], "ls /sys/class/net", "lo\n"),
        (["--network=host"], "readlink /proc/self/ns/net", "HOST NETWORK"),
    ],
    "mount": [
        (["-v", "./shared:/x:ro"], "cat /x/note; touch /x/no 2>/dev/null || echo ro", "hi\nro\n"),
        (["--volume=./shared:/y"], "cat /y/note; touch /y/new; ls /y", "hi\nnew\nnote\n"),
        (["--mount", "type=bind,src=./shared/note,dst=/z,readonly"], "cat /z", "hi\n"),
        (["--tmpfs", "/t:size=1m"], "df --output=size /t | tail -1", " 1024\n"),
        (["--mount", "type=tmpfs,target=/t,size=2m"], "df --output=size /t | tail -1", " 2048\n"),
    ],
    "read_only": [(["--read-only"], "touch /tmp/x 2>/dev/null || echo ro", "ro\n"),
        (["--read-only", "--tmpfs=/t"], "touch /t/x && echo rw", "rw\n")],
    "env": [(["-e", "A=b c", "--env=D="], 'echo "$A" "${D-unset}"', "b c \n"),
        (["-e", "OUTER"], "echo $OUTER", "from outside\n")],
    "workdir": [(["-w", "/usr/lib"], "pwd", "/usr/lib\n")],
    "user": [(["-u", "nobody"], "id -un; id -u", "nobody\n65534\n"),
        (["--user=1000:1001"], "id -u; id -g", "1000\n1001\n")],
    "entrypoint": [(["--entrypoint=/usr/bin/echo"], "hi", "/bin/sh -c hi\n")],
    "hostname": [(["-h", "me"], "hostname", "me\n")],
    "name": [(["--name=it"], "hostname", "any")],
    "keep": [(["--rm"], "echo hi", "hi\n")],
    "label": [(["-l", "a=b", "--label=c"], "echo hi", "hi\n")],
    "stop_timeout": [(["--stop-timeout=0"], "echo hi", "hi\n")],
    "interrupt_grace": [(["--interrupt-grace=1s"], "echo hi", "hi\n")],
    "output_limit": [(["--output-limit=1m"], "echo hi", "hi\n")],
    "cap_add": [(["--cap-add=NET_RAW"], "sed -n 's/^CapEff:.//p' /proc/self/status",
        "0000000000002000\n")],
    "cap_drop": [(["--cap-add=ALL", "--cap-drop=ALL"],
        "sed -n 's/^CapEff:.//p' /proc/self/status", "0000000000000000\n")],
    "security_opt": [
        ([], "sed -n 's/^Seccomp:.//p' /proc/self/status", "2\n"),
        (["--security-opt=seccomp=unconfined"],
            "sed -n 's/^NoNewPrivs:.//p; s/^Seccomp:.//p' /proc/self/status", "1\n0\n"),
        (["--security-opt=no-new-privileges"], "sed -n 's/^NoNewPrivs:.//p' /proc/self/status",
            "1\n"),
    ],
    "strict": [([], "test -e /proc/1 && echo seen", "seen\n"),
        (["--strict"], "test -e /proc/1 || echo hidden", "hidden\n")],
    "output": [(["--output=text"], "echo hi", "hi\n")],
    "runtime": [(["--runtime=embedded"], "echo hi", "hi\n")],
}  # fmt: skip
ELSEWHERE = {
    "seccomp": "tests/integration/test_learning_calls.py: needs one that was learnt",
    "audit": "tests/integration/test_audit.py: writes to the user's folder",
    "device_read_bps": "tests/integration/test_cgroups_v1.py: needs a block device",
    "device_write_bps": "tests/integration/test_cgroups_v1.py: needs a block device",
    "mode": "tests/integration/test_cells_carry.py: is of kernels",
    "warm": "tests/integration/test_templates.py: is of cells, not of programs",
    "cold": "tests/integration/test_templates.py: is of cells, not of programs",
    "holder": "tests/integration/test_holder.py: is of kernels",
    "allow_from": "tests/integration/test_installing_by_allow_list.py: needs a network",
    **dict.fromkeys(
        ("allow", "publish", "bandwidth", "latency", "loss", "network_range", "network_hardware"),
        "tests/integration/test_networks.py: needs a network",
    ),
}


def test_every_option_is_tried() -> None:
    assert set(TRIED) | set(ELSEWHERE) == set(settings.OPTIONS)


@pytest.mark.parametrize("option", TRIED)
def test_an_option_does_what_its_help_says(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OUTER", "from outside")
    (tmp_path / "shared").mkdir()
    for words, script, expected in TRIED[option]:
        (tmp_path / "shared" / "note").write_text("hi\n")
        done = subprocess.run(
            [*COMMAND, *words, "host", "/bin/sh", "-c", script],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if expected.startswith("status "):
            assert done.returncode == int(expected.split()[1]), (words, done)
            assert done.stdout == ""
            continue
        assert done.returncode == 0, (words, done)
        if expected == "HOST NETWORK":
            assert done.stdout.strip() == os.readlink("/proc/self/ns/net")
        elif option == "name":
            assert done.stdout.strip()
        else:
            assert done.stdout.split() == expected.split(), words

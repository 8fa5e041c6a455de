"""The machine code of each program is what its text says, and a file that can be executed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sandbox_kernel.linux import first_process, machine_code, multicall, stub_process

TOOLS = {"x86_64": "x86_64-linux-gnu-", "aarch64": "aarch64-linux-gnu-"}
PROGRAMS = {
    "first": first_process.MACHINES,
    "stub": stub_process.MACHINES,
    "multicall": multicall.MACHINES,
}


@pytest.mark.parametrize("machine", machine_code.MACHINES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_code_is_what_its_text_is_assembled_to(name: str, machine: str, tmp_path: Path) -> None:
    source, made, code = (tmp_path / file for file in ("text.s", "text.o", "text.bin"))
    source.write_text(PROGRAMS[name][machine].assembly)
    tools = TOOLS[machine]
    subprocess.run([f"{tools}as", "-o", made, source], check=True)
    subprocess.run([f"{tools}objcopy", "-O", "binary", "-j", ".text", made, code], check=True)

    assert bytes.fromhex(PROGRAMS[name][machine].code) == code.read_bytes()


@pytest.mark.parametrize("machine", machine_code.MACHINES)
def test_the_file_is_a_program_for_that_machine(machine: str, tmp_path: Path) -> None:
    file = tmp_path / "program"
    file.write_bytes(machine_code.executable(machine, b"\0" * 64))
    shown = subprocess.run(
        [f"{TOOLS[machine]}readelf", "--file-header", "--segments", file],
        check=True, capture_output=True, text=True,
    )  # fmt: skip

    assert not shown.stderr
    assert "EXEC (Executable file)" in shown.stdout
    assert "R E" in shown.stdout
    assert "RWE" not in shown.stdout


@pytest.mark.parametrize("name", PROGRAMS)
def test_another_machine_is_an_error_and_no_guess(name: str) -> None:
    with pytest.raises(OSError, match=r"`riscv64`"):
        machine_code.of(PROGRAMS[name], "riscv64")

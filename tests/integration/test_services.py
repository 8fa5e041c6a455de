"""Services: a program in the background that others may use as soon as the notebook goes on."""

from __future__ import annotations

import time
from typing import Any

import pytest
from commands import command, detached, output_of
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from sandbox_kernel import container

REDIS = "exec redis-server --save '' --port 6379"
pytestmark = pytest.mark.everybody


@pytest.fixture
def shell() -> Any:
    made = InteractiveShell()
    made.run_line_magic("load_ext", "sandbox_kernel")
    yield made
    made.find_line_magic("container").__self__.notebook.close()


def ran(shell: InteractiveShell, *lines: str) -> tuple[Any, str]:
    """How a cell ended, and what it printed."""
    with capture_output() as captured:
        result = shell.run_cell("\n".join(lines))
    return result, captured.stdout + captured.stderr


def test_a_cell_waits_until_its_service_listens_and_answers(shell: InteractiveShell) -> None:
    result, _ = ran(
        shell,
        "%%container --program sh --name cache --background --wait-port 6379 "
        "--healthcheck 'redis-cli ping'",
        REDIS,
    )

    assert result.success
    handle = shell.user_ns["_container"]
    assert not handle.done
    assert output_of("exec", "cache", "redis-cli", "set", "answer", "42") == "OK\n"
    handle.cancel()


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("--wait-port 6380", "nothing listens on port 6380 after 1 s"),
        ("--healthcheck 'redis-cli -p 6380 ping'", "ends with status 1 after 1 s"),
    ],
)
def test_what_is_not_ready_in_time_is_ended_and_shows_what_it_wrote(
    shell: InteractiveShell, option: str, why: str
) -> None:
    result, printed = ran(
        shell, f"%%container --program sh --background {option} --wait-time 1s", REDIS
    )

    assert type(result.error_in_exec).__name__ == "NotReady"
    assert why in str(result.error_in_exec)
    assert "Redis is starting" in printed
    assert shell.user_ns["_container"].done


@pytest.mark.whoever
def test_a_service_that_ends_at_once_is_not_waited_for(shell: InteractiveShell) -> None:
    begin = time.monotonic()
    result, printed = ran(
        shell, "%%container --background --wait-port 80", "print('no config')", "1/0"
    )

    assert "it ended before it was ready" in str(result.error_in_exec)
    assert "no config" in printed
    assert time.monotonic() - begin < 20


@pytest.mark.whoever
def test_the_command_prints_the_id_when_the_service_is_ready() -> None:
    with detached(
        "redis-server", "--save", "", options=("--wait-port", "6379", "--name", "cache")
    ) as made:
        assert output_of("exec", made, "redis-cli", "ping") == "PONG\n"


@pytest.mark.whoever
def test_the_command_removes_what_is_not_ready_and_says_why() -> None:
    late = command(
        "run", "--detach", "--wait-port", "6380", "--wait-time", "500ms", "host", "redis-server"
    )  # fmt: skip

    assert late.returncode == 125
    assert late.stdout == ""
    assert "nothing listens on port 6380 after 500 ms" in late.stderr
    assert "Redis is starting" in late.stderr
    assert not any(each.command[:1] == ("redis-server",) for each in container.list_all())


@pytest.mark.whoever
def test_the_command_waits_for_what_it_leaves_running_only() -> None:
    refused = command("run", "--wait-port", "80", "host", "true")

    assert (refused.returncode, refused.stdout) == (125, "")
    assert "option `--wait-port`: `80` is not allowed: only with `--detach`" in refused.stderr

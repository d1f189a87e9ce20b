"""The supervisor keeps a worker alive, and knows when not to."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from streamapp.config import Role
from streamapp.stream.worker import USER_FAULT, Supervisor


def shell(script: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", script)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Running:
    """A supervisor on its thread, whose command appends a line to a file at each start."""

    def __init__(self, folder: Path, script: str, *, first_wait: float = 0.0) -> None:
        self.file = folder / "starts"
        self.file.touch()
        self.supervisor = Supervisor(
            {**os.environ, "FILE": str(self.file)},
            "worker",
            command=shell(f'date +%s.%N >> "$FILE"; {script}'),
            first_wait=first_wait,
        )
        self.thread = threading.Thread(target=self.supervisor.run)
        self.thread.start()

    @property
    def starts(self) -> list[float]:
        return [float(line) for line in self.file.read_text().splitlines()]

    def ended(self) -> int:
        self.thread.join(20)
        assert not self.thread.is_alive()
        return self.supervisor.exit_code


@pytest.mark.parametrize("code", [0, USER_FAULT])
def test_a_worker_that_ended_for_good_is_not_started_again(tmp_path: Path, code: int) -> None:
    running = Running(tmp_path, f"exit {code}")
    assert running.ended() == code
    assert len(running.starts) == 1


@pytest.mark.parametrize("end", ["exit 1", "exit 70", "kill -9 $$"])
def test_a_worker_that_failed_is_started_again_until_it_is_stopped(tmp_path: Path, end: str) -> None:
    running = Running(tmp_path, end)
    until(lambda: len(running.starts) >= 3)
    running.supervisor.stop()
    running.ended()
    count = len(running.starts)
    assert not running.thread.is_alive()
    assert len(running.starts) == count


def test_a_worker_that_recovers_ends_with_its_last_code(tmp_path: Path) -> None:
    running = Running(tmp_path, '[ "$(wc -l < "$FILE")" -ge 3 ]')
    assert running.ended() == 0
    assert len(running.starts) == 3


def test_each_wait_is_twice_as_long_as_the_one_before(tmp_path: Path) -> None:
    running = Running(tmp_path, '[ "$(wc -l < "$FILE")" -ge 4 ]', first_wait=0.1)
    assert running.ended() == 0
    waits = [after - before for before, after in pairwise(running.starts)]
    assert [wait >= least for wait, least in zip(waits, (0.1, 0.2, 0.4), strict=True)] == [True] * 3


def test_stopping_ends_the_worker_in_order(tmp_path: Path) -> None:
    running = Running(tmp_path, "trap 'exit 0' TERM; touch \"$FILE.ready\"; while :; do sleep 0.01; done")
    until((tmp_path / "starts.ready").exists)
    running.supervisor.stop()
    assert running.ended() == 0
    assert len(running.starts) == 1


def test_stopping_keeps_the_code_of_a_worker_that_could_not_end_in_order(tmp_path: Path) -> None:
    running = Running(tmp_path, "trap 'exit 1' TERM; touch \"$FILE.ready\"; while :; do sleep 0.01; done")
    until((tmp_path / "starts.ready").exists)
    running.supervisor.stop()
    assert running.ended() == 1


def test_a_worker_that_is_stopped_before_it_had_begun_has_not_failed(tmp_path: Path) -> None:
    running = Running(tmp_path, "exec sleep 30")
    until(lambda: running.starts)
    running.supervisor.stop()
    assert running.ended() == 0


def test_stopping_while_waiting_starts_no_other(tmp_path: Path) -> None:
    running = Running(tmp_path, "exit 1", first_wait=1000.0)
    until(lambda: running.supervisor.exit_code == 1)
    running.supervisor.stop()
    assert running.ended() == 1
    assert len(running.starts) == 1


def test_a_worker_that_cannot_be_started_is_tried_again_and_counts_as_failed(tmp_path: Path) -> None:
    supervisor = Supervisor({}, "worker", command=(str(tmp_path / "missing"),), first_wait=0.01)
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    until(lambda: supervisor.exit_code == 1)
    supervisor.stop()
    thread.join(20)
    assert supervisor.exit_code == 1


def test_the_worker_is_told_who_watches_it(tmp_path: Path) -> None:
    running = Running(tmp_path, 'echo "$STREAMAPP_SUPERVISED" > "$FILE.parent"')
    assert running.ended() == 0
    assert (tmp_path / "starts.parent").read_text().strip() == str(os.getpid())


MAIN = """
import os, sys
from streamapp.config import ProcessConfig
from streamapp.stream.worker import main
roles, port, script = sys.argv[1:]
config = ProcessConfig(web_port=int(port))
sys.exit(main(config, dict(os.environ), tuple(roles.split(",")), command=("/bin/sh", "-c", script)))
"""


def start_main(folder: Path, roles: Sequence[Role], script: str, port: int = 6066) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, ",".join(roles), str(port), script], env={**os.environ, "DIR": str(folder)}
    )


WAITS = "trap 'exit 0' TERM; while :; do sleep 0.01; done"


def test_roles_that_run_alone_have_a_process_each_with_ports_that_follow_one_another(tmp_path: Path) -> None:
    script = f'echo "$STREAMAPP_WEB_PORT" > "$DIR/$STREAMAPP_ONLY"; {WAITS}'
    process = start_main(tmp_path, ("joiner", "monitor"), script)
    until(lambda: all((tmp_path / role).exists() for role in ("joiner", "monitor")))
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert {path.name: path.read_text().strip() for path in tmp_path.iterdir()} == {"joiner": "6066", "monitor": "6067"}


def test_one_worker_that_ended_for_good_ends_them_all_with_its_code(tmp_path: Path) -> None:
    script = f'[ "$STREAMAPP_ONLY" = monitor ] && exit 2; {WAITS}'
    assert start_main(tmp_path, ("joiner", "monitor"), script).wait(20) == USER_FAULT


def test_a_worker_with_all_roles_is_one_process_with_the_environment_as_it_is(tmp_path: Path) -> None:
    script = f'env > "$DIR/new"; mv "$DIR/new" "$DIR/env"; {WAITS}'
    process = start_main(tmp_path, ("joiner", "monitor", "learner"), script)
    until((tmp_path / "env").exists)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert "STREAMAPP_ONLY" not in (tmp_path / "env").read_text()

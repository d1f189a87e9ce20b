"""``streamapp worker``: keeps worker processes alive.

A worker process ends itself when it cannot be sure of its state; a fresh one resumes from what the broker committed.
So a broker's outage needs no operator.
"""

import contextlib
import logging
import logging.config
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from time import monotonic

from streamapp.config import ROLES, ProcessConfig, Role
from streamapp.stream import lastwords
from streamapp.stream.logs import logging_config

logger = logging.getLogger(__name__)

USER_FAULT = 2
"""Exit code of a worker that a restart would not help."""
FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0
HEALTHY_AFTER = 60.0
"""Seconds a worker must have lived for its next end to count as the first."""
STOP_GRACE = 30.0

COMMAND = (sys.executable, "-m", "agents")


class Supervisor:
    """Runs one worker process and starts it again when it fails.

    Args:
        environ: Whole environment of the process.
        name: For the log.
        command: What to run.
        first_wait: Seconds before it is started again for the first time; each further wait is twice as long.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        name: str,
        *,
        command: Sequence[str] = COMMAND,
        first_wait: float = FIRST_WAIT,
    ) -> None:
        self._environ = {**environ, "STREAMAPP_SUPERVISED": str(os.getpid())}
        self._name = name
        self._command = command
        self._first_wait = first_wait
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self.exit_code = 0
        self.ends = lastwords.Ends()
        """How often processes ended by themselves, by role and reason."""

    def run(self) -> None:
        """Return when the process has ended for good."""
        wait = self._first_wait
        while not self._stopping.is_set():
            began = monotonic()
            end = None
            try:
                end = self._run()
            except OSError as error:  # no memory or no process to be had, for now
                logger.error("%s cannot be started: %s", self._name, error)
                self.exit_code = 1
            end = end or ("worker", "killed" if self.exit_code < 0 else "failed")
            if self._stopping.is_set() and self.exit_code == -signal.SIGTERM:
                self.exit_code = 0  # it had not begun: later it listens to the signal, and ends in order
            if self.exit_code in (0, USER_FAULT) or self._stopping.is_set():
                return
            if monotonic() - began > HEALTHY_AFTER:
                wait = self._first_wait
            self.ends[end] += 1
            logger.warning(
                "%s ended with code %d (%s, %s): starting it again in %g s", self._name, self.exit_code, *end, wait
            )
            self._stopping.wait(wait)
            wait = min(wait * 2, LONGEST_WAIT)

    def _run(self) -> tuple[str, str] | None:
        """Run one process to its end, and return its last words."""
        ear, mouth = os.pipe()
        try:
            with os.fdopen(mouth, "wb"):
                told = {lastwords.WORDS_TO: str(mouth), lastwords.BEFORE: lastwords.pack(self.ends)}
                self._process = subprocess.Popen(  # noqa: S603
                    self._command, env={**self._environ, **told}, start_new_session=True, pass_fds=(mouth,)
                )
            if self._stopping.is_set():
                self._signal()
            self.exit_code = self._process.wait()
            os.set_blocking(ear, False)  # whoever it had started may still hold the other end
            with contextlib.suppress(BlockingIOError):
                return lastwords.heard(os.read(ear, 4096))
            return None
        finally:
            os.close(ear)

    def begin_stop(self) -> None:
        """Ask the process to end in order, and start no other."""
        self._stopping.set()
        self._signal()

    def stop(self) -> None:
        """End the process in order; after a while, by force."""
        self.begin_stop()
        if self._process is not None:
            try:
                self._process.wait(STOP_GRACE)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def _signal(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()


def main(
    config: ProcessConfig,
    environ: Mapping[str, str],
    roles: tuple[Role, ...] = ROLES,
    *,
    command: Sequence[str] = COMMAND,
) -> int:
    """Run workers until SIGTERM or SIGINT, and return the exit code.

    With all roles there is one process; otherwise one for each role, since each has a consumer group of its own. Their
    web ports follow one another.

    Args:
        config: What the environment says.
        environ: The environment itself, handed on to the processes.
        roles: Which roles to run.
        command: What a worker process runs.
    """
    logging.config.dictConfig(logging_config(config.log_level, config.log_format))
    if set(roles) == set(ROLES):
        supervisors = [Supervisor(environ, "worker", command=command)]
    else:
        supervisors = [
            Supervisor(
                {
                    **environ,
                    "STREAMAPP_ONLY": role,
                    "STREAMAPP_WEB_PORT": str(config.web_port + number if config.web_port else 0),
                },
                f"worker ({role})",
                command=command,
            )
            for number, role in enumerate(roles)
        ]
    threads = [threading.Thread(target=supervisor.run, daemon=True) for supervisor in supervisors]
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    for thread in threads:
        thread.start()
    # One that ended for good ends all: the others would look like a whole worker, and are not.
    while not stopped.is_set() and all(thread.is_alive() for thread in threads):
        stopped.wait(0.2)
    for supervisor in supervisors:
        supervisor.begin_stop()
    for supervisor in supervisors:
        supervisor.stop()
    for thread in threads:
        thread.join(STOP_GRACE)
    return max((abs(supervisor.exit_code) for supervisor in supervisors), default=0)

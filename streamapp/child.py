"""A child process that ends with its parent, however the parent ends.

Between parent and command stands a small watcher: this file, run as a script. It holds the reading end of a pipe
whose writing end only the parent has. When the parent closes it, or dies in whatever way, the watcher stops the
command. On Linux the kernel also kills the command when the watcher dies. The watcher has a session of its own, so a
Ctrl-C in the terminal reaches the parent alone, which stops its children in the order it chooses.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1


class Child:
    """A running command.

    Args:
        command: Program and arguments.
        log: File that standard output and standard error are appended to.
        env: Whole environment of the command; None: the parent's.
        grace: Seconds between SIGTERM and SIGKILL when the command is stopped.
    """

    def __init__(
        self, command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, grace: float = 5.0
    ) -> None:
        self.log = log
        self._grace = grace
        with log.open("ab") as out:
            self._watcher = subprocess.Popen(  # noqa: S603 - the caller's own command
                [sys.executable, "-I", "-S", __file__, str(grace), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=out,
                env=None if env is None else dict(env),
                start_new_session=True,
            )
        assert self._watcher.stdout is not None
        line = self._watcher.stdout.readline()
        self._watcher.stdout.close()
        if not line:
            self._let_go()
            raise OSError(f"{command[0]} did not start: {self.tail(3)}")
        self.pid = int(line)
        """Process id of the command itself."""

    def poll(self) -> int | None:
        """Return the command's exit code (128 + n for signal n), None while it runs."""
        return self._watcher.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the command ends by itself, and return its exit code.

        Raises:
            TimeoutError: It still runs after *timeout* seconds.
        """
        try:
            self._watcher.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"process {self.pid} still runs after {timeout} s") from error
        return self._let_go()

    def stop(self) -> int:
        """Ask the command to end, kill it after the grace, and return its exit code."""
        return self._let_go()

    def kill(self) -> int:
        """Kill the command at once (SIGKILL), and return its exit code."""
        self.send(signal.SIGKILL)
        return self._let_go()

    def send(self, number: int) -> None:
        """Send the command a signal; nothing happens when it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def tail(self, lines: int = 20) -> str:
        """Return the last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _let_go(self) -> int:
        assert self._watcher.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._watcher.stdin.close()
        return self._watcher.wait(self._grace + 10.0)


def _die_with_the_watcher() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _watch(grace: float, command: Sequence[str]) -> int:
    child = subprocess.Popen(  # noqa: S603
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        preexec_fn=_die_with_the_watcher,  # safe here: the watcher has a single thread yet
    )
    os.write(1, b"%d\n" % child.pid)
    os.close(1)

    def stop_at_end_of_pipe() -> None:
        while os.read(0, 4096):
            pass
        child.terminate()
        try:
            child.wait(grace)
        except subprocess.TimeoutExpired:
            child.kill()

    threading.Thread(target=stop_at_end_of_pipe, daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    # os._exit: the thread above may sit in a read that nothing interrupts.
    os._exit(_watch(float(sys.argv[1]), sys.argv[2:]))

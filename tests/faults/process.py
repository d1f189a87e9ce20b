"""Worker processes of a run.

A worker takes seconds of work to import what it needs; runs start hundreds. So a process that has imported it already
is forked for each. What runs in it is what ``python -m agents`` runs.
"""

import contextlib
import ctypes
import os
import resource
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import streamapp
from tests.faults.mutants import MUTANTS
from tests.integration.workers import Worker

_PR_SET_PDEATHSIG = 1
ENDED = 1
"""Exit code of a worker that ended itself, to be started again."""
ROOT = Path(streamapp.__file__).parents[1]

_context = get_context("forkserver")
# Not `agents.app` itself: it looks at the environment when it is imported.
_context.set_forkserver_preload(["streamapp.stream.app", "agents.joiner", "agents.monitor", "agents.learner"])


class Forked:
    """A worker process, with what is used here of :class:`subprocess.Popen`.

    Args:
        environ: Its variables, beside our own.
        log: Where its output goes.
        mutant: Name of the defect that it has.
    """

    def __init__(self, environ: Mapping[str, str], log: Path, mutant: str | None) -> None:
        arguments = ({**os.environ, **environ}, str(log), mutant)
        self._process = _context.Process(target=_work, args=arguments, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("worker", timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _die_with_parent() -> None:
    """Be killed when whoever started this process ends in whatever way."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _work(environ: Mapping[str, str], log: str, mutant: str | None) -> None:
    _die_with_parent()
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = ["agents"]
    if mutant is not None:
        MUTANTS[mutant]()
    runpy.run_module("agents", run_name="__main__")


class Process(Worker):
    """A worker process.

    When it ends by itself it is started again: by ``streamapp worker``, or by whoever looks after it here, which takes
    a tenth of the time; that is not done again when it was killed or stopped, or is to be left alone.

    Args:
        name: For people.
        environ: Its variables, beside our own.
        log: Where its output goes.
        supervised: Whether ``streamapp worker`` starts it again.
        alone: Whether nobody does.
        mutant: Name of the defect that it has.
        file_limit: Bytes that a file may have for it; None: as many as there is room for.
    """

    def __init__(
        self,
        name: str,
        environ: Mapping[str, str],
        log: Path,
        *,
        supervised: bool = False,
        alone: bool = False,
        mutant: str | None = None,
        file_limit: int | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self.supervised = supervised
        self.alone = alone
        self.killed = False
        self._over = False
        self._file = log.open("ab")
        if file_limit is not None:  # its log is not to be limited too
            pipe = log.with_suffix(".pipe")
            os.mkfifo(pipe)
            threading.Thread(target=_copy, args=(pipe, self._file), daemon=True).start()
            log = pipe
        self._again: Callable[[], Forked] = lambda: Forked(environ, log, mutant)
        # Both have what is used of it.
        self._process = cast(Any, self._supervisor(environ) if supervised else self._again())
        if file_limit is not None:
            self.limit_files(file_limit)

    def _supervisor(self, environ: Mapping[str, str]) -> Any:
        return subprocess.Popen(
            [sys.executable, "-m", "streamapp", "worker"],
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=self._file,
            cwd=ROOT,
            preexec_fn=_die_with_parent,
            process_group=0,  # Ctrl-C is for us, who stop it in order
        )

    @property
    def exit_code(self) -> int | None:
        """Its exit code, None while it runs or is started again."""
        code: int | None = self._process.poll()
        if code == ENDED and not (self.supervised or self.alone or self._over):
            self._process = cast(Any, self._again())
            return None
        return code

    def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body of one of its pages; status 0 while it does not answer."""
        return super().get(path) if self.exit_code is None else (0, b"")

    def kill(self) -> None:
        """SIGKILL."""
        self.killed = self._over = True
        super().kill()

    def stop(self, timeout: float = 30.0) -> int:
        """SIGTERM, and return the exit code."""
        self._over = True
        return super().stop(timeout)

    @property
    def pid(self) -> int:
        """Id of the process that does the work; of a supervised one, the newest."""
        if not self.supervised:
            return int(self._process.pid)
        threads = Path(f"/proc/{self._process.pid}/task").iterdir()  # any of them may have started it
        return max(int(child) for thread in threads for child in (thread / "children").read_text().split())

    @property
    def said(self) -> str:
        """Everything it has logged."""
        return self.log.read_text(errors="replace")

    @property
    def url(self) -> str | None:
        """Where its status page is now: it moves when a supervised worker is started again."""
        lines = [line for line in self.said.splitlines() if "status page at " in line]
        return lines[-1].split("status page at ")[1].split(",")[0] if lines else None

    @property
    def peak_memory(self) -> int:
        """Most bytes that it has had in memory at once."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])

    def limit_files(self, size: int) -> None:
        """Let no file that it writes grow beyond some bytes, as on a full disk; -1: let them grow again."""
        _, hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (size, hard))

    def metric(self, name: str) -> dict[str, float]:
        """Return the samples of a metric, by their labels as they are written."""
        _, body = self.get("/metrics")
        samples = {}
        for line in body.decode().splitlines():
            if line.startswith(name + "{"):
                labels, value = line.removeprefix(name + "{").rsplit("} ", 1)
                samples[labels] = float(value)
        return samples

    def close(self) -> None:
        self._over = True
        if self.exit_code is None and self.supervised:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop(20)  # killed, it would leave its worker to find out for itself
        super().close()


def _copy(source: Path, target: Any) -> None:
    with source.open("rb", buffering=0) as lines:
        while data := lines.read(1 << 16):
            target.write(data)
            target.flush()

"""The worker as it is shipped, with a clock on its event loop: ``python -m benchmarks.probed``.

The clock asks to be woken every millisecond. Whenever it was woken :data:`NOTED` seconds late or more, it writes a line
of JSON to the file that ``BENCH_STALLS`` names: when (monotonic), how long the loop had not come round, and how much
CPU time the loop's thread and the whole process used meanwhile. The rest of the time it waited: for the processor, or
for another thread's turn to end.

With ``BENCH_WHY`` a thread looks at the loop's stack when it is late; that costs a little, and is for finding causes.
"""

import asyncio
import json
import os
import sys
import threading
import time
import traceback
from typing import IO, Any

import faust

from agents.app import app
from streamapp.stream.logs import logging_config

TICK = 0.001
NOTED = 0.005
LATE = 0.02
"""Seconds without a tick after which the stack is looked at."""


class Clock:
    """Notes when the loop does not come round."""

    def __init__(self, file: IO[str], *, why: bool) -> None:
        self._file = file
        self._ticked = time.monotonic()
        self._stacks: list[str] = []
        self._loop_thread = threading.get_ident()
        if why:
            threading.Thread(target=self._look, daemon=True).start()

    async def run(self) -> None:
        """Tick for ever."""
        self._loop_thread = threading.get_ident()
        self._ticked = time.monotonic()
        thread, process = time.thread_time(), time.process_time()
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            stall, self._ticked = now - self._ticked, now
            thread_now, process_now = time.thread_time(), time.process_time()
            if stall >= NOTED:
                note: dict[str, Any] = {
                    "at": now,
                    "stall": stall,
                    "loop_cpu": thread_now - thread,
                    "cpu": process_now - process,
                }
                if self._stacks:
                    note["stack"] = self._stacks[-1]
                self._file.write(json.dumps(note) + "\n")
                self._file.flush()
            self._stacks.clear()
            thread, process = thread_now, process_now

    def _look(self) -> None:
        while True:
            time.sleep(LATE / 2)
            if time.monotonic() - self._ticked > LATE:
                frame = sys._current_frames().get(self._loop_thread)
                lines = traceback.format_stack(frame)[-12:] if frame else []
                self._stacks.append("".join(lines))


def main() -> None:
    """Run the worker."""
    file = open(os.environ["BENCH_STALLS"], "w")  # noqa: SIM115 - until the process ends
    clock = Clock(file, why=bool(os.environ.get("BENCH_WHY")))

    @app.task  # type: ignore[untyped-decorator]
    async def tick() -> None:
        await clock.run()

    worker = faust.Worker(
        app,
        quiet=True,
        redirect_stdouts=False,
        loglevel=app.config.log_level,
        logging_config=logging_config(app.config.log_level, app.config.log_format),
    )
    worker.spinner = None
    worker.execute_from_commandline()


if __name__ == "__main__":
    main()

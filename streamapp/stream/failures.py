"""What becomes of a task that could not apply what it was handed.

The process ends, and a fresh one tries again from what was committed: a task's memory cannot be trusted after an error
that nobody expected. The third failure in a row parks the task instead: the others go on, and the way out is named.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from aiokafka.errors import KafkaError
from faust.types import TP

from streamapp.config import Role
from streamapp.errors import StreamappError
from streamapp.stream.culprit import search
from streamapp.stream.deadline import within
from streamapp.stream.task import Surroundings, Task

logger = logging.getLogger(__name__)

TRIES = 3
"""Failures in a row at one place, by all workers together, after which the task is parked."""
NOTE_DEADLINE = 15.0
"""Seconds."""
DEFECT = "defect"
"""Why such a task is parked, in one word."""
OUTSIDE = (StreamappError, KafkaError, OSError, TimeoutError)
"""Errors of what lies around us: no record causes them."""


class Failures:
    """Counts failures, and parks a task that fails again and again.

    Args:
        around: Of the tasks.
        make: Makes a task, by role.
        end: Ends the process, given why, the error and the role.
        park: Parks a task, given the reason in one word and in many.
    """

    def __init__(
        self,
        around: Surroundings,
        make: Mapping[Role, Callable[[int, Surroundings], Task]],
        end: Callable[[str, BaseException, Task], None],
        park: Callable[[Task, str, str], None],
    ) -> None:
        self._around = around
        self._make = make
        self._end = end
        self._park = park
        self.searching: set[asyncio.Task[None]] = set()

    async def failed(self, task: Task, error: Exception, doing: str) -> None:
        """Take note of an error while a task applied or committed something, and decide.

        Args:
            task: Its memory is not to be used any more.
            error: What was raised.
            doing: What it was raised on, in words.
        """
        if task.parked is not None:
            return
        what = f"{doing}: {error!r}"
        task.parked, task.parked_for = what, DEFECT  # nothing of it may be committed from here on
        count = 0
        if not isinstance(error, OUTSIDE):
            try:
                count = await within(NOTE_DEADLINE, task.note_failure())
            except Exception as fault:
                logger.warning("%s: the failure could not be counted: %r", task, fault)
        if count < TRIES:
            self._end(f"{task}: {what}", error, task)
            return
        logger.error("%s: %s", task, what, exc_info=error)
        self._park(task, DEFECT, f"failed {count} times in a row: {what}; looking for the record that causes it")
        looking = asyncio.create_task(self._name(task, count, what))
        self.searching.add(looking)
        looking.add_done_callback(self.searching.discard)

    async def _name(self, task: Task, count: int, what: str) -> None:
        """Say which record it is, once that is found."""
        failed = f"failed {count} times in a row: {what}"
        try:
            found = await self._culprit(task)
        except Exception as error:
            logger.warning("%s: cannot find out which record it is: %r", task, error)
            found = None
        if found is None:
            tp, end = task.place()
            task.parked = (
                f"{failed}; no single record causes it, as far as trying tells: the task had come to offset {end} of"
                f" {tp.topic}[{tp.partition}]. Mend the cause and start the worker again"
            )
        else:
            tp, offset = found
            task.parked = (
                f"{failed}; without the record at offset {offset} of {tp.topic}[{tp.partition}] it would go on."
                f" Mend the cause and start the worker again, or move that record to dead-letters:"
                f" {skip_command(tp, offset)}"
            )
        logger.error("%s: parked (%s): %s", task, DEFECT, task.parked)

    async def _culprit(self, task: Task) -> tuple[TP, int] | None:
        suspect = task.suspect()
        if suspect is not None or task.role == "learner":  # its jobs cannot be tried without doing them
            return suspect
        until: dict[TP, int] = {tp: task.position(tp) for tp in task.inputs}
        if task.applying is not None:
            until[task.applying.tp] = task.applying.end
        make: Any = self._make[task.role]
        return await asyncio.to_thread(search, make, task.role, task.partition, self._around, until)


def skip_command(tp: TP, offset: int) -> str:
    """Return the command that moves a record to ``dead-letters``."""
    return f"streamapp skip --topic {tp.topic} --partition {tp.partition} --offset {offset}"

"""Tasks that would fail again on any worker: set aside, said loudly, and noticed once they are mended."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from faust.types import TP

from streamapp.errors import CheckpointError
from streamapp.stream.task import Surroundings, Task

logger = logging.getLogger(__name__)


class Parking:
    """Parks tasks.

    A parked task writes nothing. So when its checkpoint grows somebody has mended it, and the process is ended so that
    a fresh one begins from what is stored now.

    Args:
        around: Of the tasks.
        tasks: Those of the process, whatever their state.
        parked: Told of each task that has just been parked.
        mended: Told of a parked task that somebody has mended.
    """

    def __init__(
        self,
        around: Surroundings,
        tasks: Mapping[Any, Task],
        parked: Callable[[Task], None],
        mended: Callable[[Task], None],
    ) -> None:
        self._around = around
        self._tasks = tasks
        self._parked = parked
        self._mended = mended
        self._ends: dict[Task, int] = {}
        """Where the checkpoints ended when they were first looked at."""
        self._looking: set[asyncio.Task[None]] = set()

    def park(self, task: Task, reason: str, text: str) -> None:
        """Set a task aside.

        Args:
            task: It keeps its producer, so that no other worker is disturbed.
            reason: Why, in one word.
            text: Why, and what to do.
        """
        details = {"event": "parked", "task": str(task), "reason": reason}
        logger.error("%s: parked (%s): %s", task, reason, text, extra={"details": details})
        task.parked, task.parked_for = text, reason
        self._parked(task)
        # Now rather than later: whoever mends it may be quick.
        looking = asyncio.ensure_future(self.look())
        self._looking.add(looking)
        looking.add_done_callback(self._looking.discard)

    async def look(self) -> None:
        """Look whether a parked task was mended. Never raises."""
        parked = [task for task in self._tasks.values() if task.parked is not None]
        self._ends = {task: end for task, end in self._ends.items() if task in parked}
        if not parked:
            return
        try:
            async with self._around.reader(self._around.config) as reader:
                for task in parked:
                    end = await reader.end(task.checkpoint.topic, task.partition)
                    if self._ends.setdefault(task, end) != end:
                        self._mended(task)
                        return
        except Exception as error:  # the broker does not answer, or the topic has gone: later, then
            logger.debug("cannot look at the checkpoints of parked tasks: %r", error)

    async def recognise(self) -> None:
        """Park those tasks whose inputs are other topics by now than those that their positions are of. Never raises.

        A consumer does not notice: it asks for topics by their names.
        """
        kept = [task for task in self._tasks.values() if task.parked is None]
        if not kept:
            return
        try:
            async with self._around.reader(self._around.config) as reader:
                ids = await reader.topic_ids({tp.topic for task in kept for tp in task.inputs})
        except Exception as error:
            logger.debug("cannot ask for the ids of topics: %r", error)
            return
        for task in kept:
            if task.parked is not None:
                continue
            try:
                task.checkpoint.identify(_of(task.inputs, ids))
            except CheckpointError as error:
                self.park(task, "identity", str(error))


def _of(inputs: Iterable[TP], ids: Mapping[str, str]) -> dict[str, str]:
    return {tp.topic: ids[tp.topic] for tp in inputs if tp.topic in ids}

"""Owns the tasks of one process: takes them over, feeds them, commits them, and ends when one cannot go on.

Faust tells it which partitions are ours; it tells Faust where to read them from. What would fail again on any worker
parks the task; everything else ends the process, so that whoever restarts it resumes from what the broker committed.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from time import monotonic, time
from typing import Any

from aiokafka.errors import OffsetOutOfRangeError
from faust.types import TP

from streamapp.artifacts import ArtifactStore
from streamapp.config import ProcessConfig, Role
from streamapp.core.settings import Settings
from streamapp.errors import CheckpointError, ConfigError
from streamapp.stream.apart import producer_apart
from streamapp.stream.breathing import breathing
from streamapp.stream.deadline import within
from streamapp.stream.failures import Failures
from streamapp.stream.joining import JoinerTask
from streamapp.stream.learning import LearnerTask
from streamapp.stream.monitoring import MonitorTask
from streamapp.stream.parking import Parking
from streamapp.stream.producer import CommitFailed, Fenced, Producer, TooLarge
from streamapp.stream.reader import Reader
from streamapp.stream.task import InputRefused, Misaligned, Surroundings, Task
from streamapp.stream.topics import Topics
from streamapp.stream.transport import Batch, FetchFailed
from streamapp.stream.watchdog import Watchdog

logger = logging.getLogger(__name__)

TASKS: dict[Role, Callable[[int, Surroundings], Task]] = {
    "joiner": JoinerTask,
    "monitor": MonitorTask,
    "learner": LearnerTask,
}
BEHIND = 8
"""Commit intervals between two commits of a task that is far behind."""
FINAL_COMMIT_DEADLINE = 5.0
GROUP_DEADLINE = 2.0
"""For the group to hear of our positions, and that we leave: nothing relies on either."""
SHUTDOWN_DEADLINE = 15.0

TaskKey = tuple[Role, int]


class Runtime:
    """The tasks of one process.

    Args:
        config: Of the process.
        settings: Of the models.
        roles: Which tasks this process may own.
        recoveries: What processes before this one counted, by role and reason.
        make: Makes a task, by role.
        leave: Called last when the process must end, with its exit code.
        reader: Makes what reads a stretch of a partition.
        producer: Makes what a task, by role and partition, writes with.
        monotonic: Seconds that only pass.

    Raises:
        ConfigError: learned models cannot be kept where they shall be.
    """

    def __init__(
        self,
        config: ProcessConfig,
        settings: Settings,
        roles: tuple[Role, ...],
        *,
        recoveries: Mapping[tuple[str, str], int] | None = None,
        make: Mapping[Role, Callable[[int, Surroundings], Task]] = TASKS,
        leave: Callable[[int], None] = os._exit,
        reader: Callable[[ProcessConfig], Reader] = Reader,
        producer: Callable[[ProcessConfig, str, int], Producer] = producer_apart,
        monotonic: Callable[[], float] = monotonic,
    ) -> None:
        self.config = config
        self.roles = roles
        self.topics = Topics(config.topic_prefix)
        self.tasks: dict[TaskKey, Task] = {}
        self.ready = False
        """Whether every assigned task runs."""
        self.recoveries = dict(recoveries or {})
        """By (role, reason)."""
        self.ending: str | None = None
        """Why the process ends, once it does."""
        self.ended_by: tuple[str, str] | None = None
        """The same as (role, reason), where it ends for a failure."""
        self._exit_code = 0
        self._suspended = True
        """Between two assignments nobody knows what is ours, so nothing is committed."""
        self._watchdog = Watchdog(monotonic)
        self._shutting_down: asyncio.Task[None] | None = None
        self._leave = leave
        self._consumer: Any = None
        self._opening: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()
        self._working = asyncio.Lock()
        """Held by whoever works for long: each in turn, a batch or a commit's records at a time. Else each commit would
        have a batch of every task between any two of its steps."""
        self.around = Surroundings(
            config=config,
            settings=settings,
            topics=self.topics,
            worked=self._worked,
            end_proof=lambda tp: self._consumer.end_proof(tp),
            withheld=lambda tp: self._consumer.withheld(tp),
            clock=time,
            reader=reader,
            producer=producer,
            monotonic=monotonic,
        )
        self.parking = Parking(self.around, self.tasks, self._parked, self._mended)
        self._make = make
        self._failures = Failures(self.around, make, self._end_for, self.parking.park)
        if "learner" in roles:
            ArtifactStore(config.artifacts_url)  # refused now rather than by the first partition
        self._roles_of: dict[str, Role] = {
            self.topics.predictions: "joiner",
            self.topics.outcomes: "joiner",
            self.topics.scored: "monitor",
            self.topics.retrain: "learner",
        }

    def attach(self, consumer: Any) -> None:
        """Meet the consumer, once Faust has made it."""
        self._consumer = consumer
        self._watchdog.assigned()

    def inputs(self, role: Role) -> list[str]:
        """Return the topics that a role reads."""
        return [topic for topic, reader in self._roles_of.items() if reader == role]

    # -- what is ours ------------------------------------------------------------------------------------------------

    async def revoke(self) -> None:
        """Commit everything: partitions may go elsewhere once this returns.

        Tasks stay as they are until the new assignment says which are still ours. One that was given to somebody
        else meanwhile has been fenced, and learns so at its next commit.
        """
        self.ready = False
        if self._opening is not None:
            self._opening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._opening
        async with self._changing:
            for task in self.tasks.values():
                task.clear()
            # Nothing but these last commits begins from here on; one that is under way is waited for.
            suspended, self._suspended = self._suspended, True
            self._watchdog.assigned()
            if not suspended:
                await self._commit_all(self.tasks.values(), last=True)

    async def assign(self, assignment: Iterable[TP]) -> None:
        """Let go of what is not ours any more and take over what is new."""
        self._opening = asyncio.create_task(self._assign(set(assignment)))
        with contextlib.suppress(asyncio.CancelledError):
            await self._opening

    async def _assign(self, assignment: set[TP]) -> None:
        async with self._changing:
            if self._shutting_down is not None:
                return  # whoever is there after us takes over
            wanted = self._wanted(assignment)
            for key in [key for key in self.tasks if key not in wanted]:
                logger.info("%s: given up", self.tasks[key])
                await self._quietly(self.tasks.pop(key).close())
            fresh = [key for key in wanted if key not in self.tasks]
            # With the results, since it then waits for all of them, also where it is cancelled.
            ended = await asyncio.gather(
                self.parking.recognise(),
                *(self._open(role, partition) for role, partition in fresh),
                return_exceptions=True,
            )
            for error in ended:
                if isinstance(error, BaseException):
                    raise error
        for task in self.tasks.values():
            task.progressed = self.around.monotonic()
        if self.ending is None and self._shutting_down is None:
            self._suspended = False
            self.ready = all(task.parked is None for task in self.tasks.values())
            if fresh or not self.tasks:
                logger.info("ready: %s", ", ".join(sorted(map(str, self.tasks.values()))) or "no partitions assigned")

    def _wanted(self, assignment: set[TP]) -> set[TaskKey]:
        wanted: set[TaskKey] = set()
        for tp in assignment:
            role = self._roles_of.get(tp.topic)
            if role is None or role not in self.roles:
                continue
            missing = [topic for topic in self.inputs(role) if TP(topic, tp.partition) not in assignment]
            if missing:
                self.end(f"partition {tp.partition} of {tp.topic} is ours but not that of {', '.join(missing)}")
                return set()
            wanted.add((role, tp.partition))
        return wanted

    async def _open(self, role: Role, partition: int) -> None:
        try:
            task = self._make[role](partition, self.around)
        except Exception as error:
            self.end(f"{role}-{partition}: cannot take over: {error}", error, role=role)
            return
        try:
            await task.open()
            if _cancelled():
                raise asyncio.CancelledError  # what it waited for came at the same moment, and won
        except CheckpointError as error:
            self.parking.park(task, "checkpoint", str(error))
        except asyncio.CancelledError:
            await task.close()
            raise
        except Exception as error:
            await self._failures.failed(task, error, "cannot take over")
            if self.ending is not None:
                await task.close()
                return
        else:
            self.count_recovery(role, task.recovery.reason)
            positions = {tp.topic: mark.position for tp, mark in task.marks.items()}
            logger.info(
                "%s: %s; goes on from %s",
                task,
                task.recovery,
                ", ".join(f"{topic}@{position}" for topic, position in positions.items()),
                extra={"details": {"task": str(task), **task.recovery.details(), "positions": positions}},
            )
        self.tasks[role, partition] = task

    def _parked(self, task: Task) -> None:
        self.ready = False
        self.count_recovery(task.role, f"parked_{task.parked_for}")
        self._consumer.pause_partitions(task.inputs)

    def _mended(self, task: Task) -> None:
        why = f"{task}: its checkpoint was changed by somebody else: beginning anew from it"
        self.end(why, reason="mended", role=task.role)

    async def positions(self, assignment: Iterable[TP]) -> Mapping[TP, int]:
        """Return where each assigned partition is to be read from. Parked ones have no place."""
        self._consumer.clear_proofs()
        positions = {}
        for task in self.tasks.values():
            for tp in task.inputs:
                if tp in assignment and task.parked is None:
                    positions[tp] = task.position(tp)
        return positions

    def sought(self, positions: Mapping[TP, int]) -> None:
        """Hear that the partitions are being read from there; pause those that have no place."""
        lost = {tp for tp in self._consumer.assignment() if tp not in positions}
        self._consumer.pause_partitions(lost)
        for task in self.tasks.values():
            task.clear()

    async def _worked(self, tp: TP) -> bool:
        return await self._consumer.group_position(tp) is not None

    # -- what comes in -----------------------------------------------------------------------------------------------

    async def handle(self, batch: Batch) -> None:
        """Apply one fetched batch. Never raises: Faust would go on without it."""
        key = self._roles_of[batch.tp.topic], batch.tp.partition
        task = None
        try:
            async with self._working:
                # Asked here, since all of it may have changed while others were at work.
                task = self.tasks.get(key)
                if task is None or task.parked is not None or self.ending is not None or self._suspended:
                    return  # nothing is lost: whoever goes on reads from what the task has applied
                await task.handle(batch)
                if isinstance(task, JoinerTask):
                    self._throttle(task)
            if task.full:
                await self._commit(task)
                async with self._working:
                    await task.advance()
        except InputRefused as error:
            assert task is not None
            self.parking.park(task, "timestamps", str(error))
        except Misaligned as stray:
            logger.debug("%s: stray batch at %d of %s", task, batch.start, stray)
            await self._seek(stray)
        except Exception as error:
            assert task is not None
            on = task.applying or batch
            records = f"{on.tp.topic}[{on.tp.partition}] offsets {on.start} to {on.end - 1}"
            await self._failures.failed(task, error, f"failed on {records}")
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # what code below Python panics with
            self.end(f"{task or key}: failed: {error!r}", error)

    async def _seek(self, stray: Misaligned) -> None:
        if self._suspended:
            return  # every position is sought with the next assignment
        try:
            await self._consumer.seek_wait({stray.tp: stray.position})
        except Exception as error:  # taken away meanwhile; if it is still ours, the next batch is a stray as well
            logger.debug("cannot seek to %d of %s: %r", stray.position, stray.tp, error)

    def _throttle(self, task: JoinerTask) -> None:
        paused = task.paused()
        self._consumer.pause_partitions(paused)
        self._consumer.resume_partitions(set(task.inputs) - paused)

    def failed(self, failure: FetchFailed) -> None:
        """Hear of a partition that cannot be read at its position."""
        task = self.tasks.get((self._roles_of[failure.tp.topic], failure.tp.partition))
        if task is not None and task.parked is None:
            if isinstance(failure.error, OffsetOutOfRangeError):
                why = "the log does not hold the task's position: it was truncated, made anew, or retention overtook it"
                self.parking.park(task, "position", f"{failure}: {why}; {task.checkpoint.way_out}")
            else:
                self.parking.park(task, "input", str(failure))

    # -- what goes out -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Commit at every interval, for as long as the process lives."""
        while self.ending is None:
            await asyncio.sleep(self.config.commit_interval)
            try:
                if not self._suspended:
                    await self._round()
                else:
                    if self._shutting_down is not None or (self._opening is not None and not self._opening.done()):
                        self._watchdog.assigned()
                    self._end_if(self._watchdog.unassigned())
            except Exception as error:
                self.end(f"the commit loop failed: {error!r}", error)

    async def _round(self) -> None:
        due = []
        for task in list(self.tasks.values()):
            if task.parked is not None:
                continue
            try:
                async with self._working:
                    await task.advance()
            except Exception as error:
                await self._failures.failed(task, error, "failed as time went on")
                continue
            if isinstance(task, JoinerTask):
                self._throttle(task)
            if isinstance(task, LearnerTask) and task.failure is not None:
                if isinstance(task.failure, CheckpointError | ConfigError):
                    self.parking.park(task, "artifact", str(task.failure))
                else:
                    await self._failures.failed(task, task.failure, "a job failed")
                continue
            if task.wants_commit and not self._may_wait(task):
                due.append(task)
        await self._commit_all(due)
        self._end_if(self._watchdog.stuck(self.tasks.values(), self.lag))

    def _may_wait(self, task: Task) -> bool:
        """Tell whether a commit may be put off.

        A transaction costs about the same for few rows as for many. Where more is left to be read than waits to be
        committed, nobody waits for these rows in particular.
        """
        if task.committed_at is None or task.crowded or sum(self.lag(task).values()) <= task.waiting:
            return False
        return self.around.monotonic() - task.committed_at < BEHIND * self.config.commit_interval

    async def _commit_all(self, tasks: Iterable[Task], *, last: bool = False) -> None:
        async with asyncio.TaskGroup() as commits:
            for task in tasks:
                commits.create_task(self._commit(task, last=last))

    async def _commit(self, task: Task, *, last: bool = False) -> None:
        """Commit one task; end the process if that fails."""
        try:
            await self._try_commit(task, last)
        except CommitFailed as error:
            reason = "fenced" if isinstance(error, Fenced) else "aborted"
            self.end(f"{task}: {error}", error, reason=reason, role=task.role)
        except (CheckpointError, TooLarge) as error:
            self.parking.park(task, "commit", str(error))
        except Exception as error:
            await self._failures.failed(task, error, "commit failed")

    async def _try_commit(self, task: Task, last: bool) -> None:
        async with task.committing:
            async with self._working:
                await asyncio.sleep(0)  # whoever had it before may not have let the loop come round
                # Asked here, since all of it may have changed while others were at work.
                if self.ending is not None or task.parked is not None or (self._suspended and not last):
                    return
                if self.tasks.get((task.role, task.partition)) is not task or not task.wants_commit:
                    return
                if task.torn:
                    self.end(f"{task}: what it was at was broken off: its memory cannot be trusted", role=task.role)
                    return
                await task.prepare()
                taken = task.take()
                await asyncio.sleep(0)
                records = [record async for record in breathing(taken)]
            task.acknowledged(await task.producer.commit(records))

    def lag(self, task: Task) -> dict[TP, int]:
        """Return how far a task is behind each of its inputs, in offsets."""
        return task.lag(self._consumer.end_of)

    def silence(self) -> float:
        """Return for how many seconds the broker has not answered those who read."""
        return float(self._consumer.silence())

    async def commit_group(self) -> None:
        """Tell the consumer group our positions, for lag tools and to know later that it has worked."""
        marks = {
            tp: mark.position
            for task in self.tasks.values()
            if task.parked is None and task.commits
            for tp, mark in task.stored_marks().items()
        }
        if marks and self.ending is None:
            await self._consumer.commit_group(marks)

    def count_recovery(self, role: str, reason: str) -> None:
        """Count a recovery, a fence or a parked task."""
        self.recoveries[role, reason] = self.recoveries.get((role, reason), 0) + 1

    # -- how it ends -------------------------------------------------------------------------------------------------

    def end(
        self, why: str, error: BaseException | None = None, *, reason: str = "failed", role: str = "worker"
    ) -> None:
        """End the process, non-zero: a restart resumes from what the broker committed."""
        self._exit_code = 1
        if self.ending is not None:
            return
        known = error is None or isinstance(error, CommitFailed | CheckpointError)
        details = {"event": "ending", "role": role, "reason": reason}
        logger.error("ending (%s): %s", reason, why, exc_info=None if known else error, extra={"details": details})
        self.ending, self.ended_by = why, (role, reason)
        self.count_recovery(role, reason)
        self.ready = False
        if self._shutting_down is None:
            self._shutting_down = asyncio.ensure_future(self._shut_down(commit=False))

    def _end_for(self, why: str, error: BaseException, task: Task) -> None:
        self.end(why, error, role=task.role)

    def _end_if(self, why: str | None) -> None:
        if why is not None:
            self.end(why, reason="stuck")

    def stop(self) -> None:
        """End the process in order: commit, let go, leave the group, exit 0."""
        if self._shutting_down is None:
            logger.info("stopping")
            self.ready = False
            self._shutting_down = asyncio.ensure_future(self._shut_down(commit=True))

    async def _shut_down(self, *, commit: bool) -> None:
        try:
            await within(SHUTDOWN_DEADLINE, self._let_go(commit))
        except BaseException as error:  # also when Faust, crashing on its own account, cancels all that runs
            logger.warning("could not leave in order: %r", error)
            self._exit_code = 1
        finally:
            logging.shutdown()
            self._leave(self._exit_code)

    async def _let_go(self, commit: bool) -> None:
        if self._consumer is not None:
            self._consumer.end_flow()
        if commit:
            try:
                await within(FINAL_COMMIT_DEADLINE, self.revoke())
            except TimeoutError:
                self._exit_code = 1
                self.ending = self.ending or f"the final commits took more than {FINAL_COMMIT_DEADLINE:g} s"
                logger.warning("%s: work resumes from the last ones", self.ending)
            await self._quietly(within(GROUP_DEADLINE, self.commit_group()))
            if self.ending is None:
                names = ", ".join(sorted(str(task) for task in self.tasks.values() if task.parked is None))
                logger.info("final checkpoints written: %s", names or "no tasks")
        self.ending = self.ending or "stopped"
        await asyncio.gather(*(self._quietly(task.close()) for task in self.tasks.values()))
        if self._consumer is not None:
            try:
                await within(GROUP_DEADLINE, self._consumer.leave())
            except Exception as error:  # in the middle of a rebalance it is answered when that ends
                logger.info("the group does not know yet: others take over after its session timeout (%r)", error)

    @staticmethod
    async def _quietly(work: Awaitable[object]) -> None:
        with contextlib.suppress(Exception):
            await work


def _cancelled() -> bool:
    """Tell whether somebody has asked what runs here to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

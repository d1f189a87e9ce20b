"""The learner's task: ``retrain`` in, ``model-updates`` and artifacts out.

Each request is worked on by a job of its own, which reads the stretch of ``scored`` that the request names with a
consumer of its own. What a job finds is a function of the request and of ``scored``; so a job that a crash cut off is
simply begun again. The task's position is the oldest request that is not finished.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import msgspec
from faust.types import TP
from msgspec import Struct

from streamapp.artifacts import ArtifactStore
from streamapp.core.events import Artifact, ModelUpdate, RetrainRequest, Scored, ScoredBatch, UpdateMetrics
from streamapp.core.learner import Learner, LearnResult, seed_of
from streamapp.core.learning.learned import INPUTS
from streamapp.errors import CheckpointError, DecodeError
from streamapp.stream.checkpoint import InputMark
from streamapp.stream.cloudevents import cloud_event
from streamapp.stream.codec import decode_retrain, decode_scored
from streamapp.stream.producer import Record
from streamapp.stream.quarantine import QUARANTINED
from streamapp.stream.reader import Reader
from streamapp.stream.recent import Recent
from streamapp.stream.records import Records, Row
from streamapp.stream.task import Surroundings, Task
from streamapp.stream.transport import Batch

logger = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
"""Between two attempts to reach the artifact store."""
KEPT_DONE = b"done"

Key = tuple[str, str]


class Learned(Struct, frozen=True):
    """The newest accepted model of one model and group."""

    version: str
    count: int
    artifact: Artifact


class Store(Protocol):
    """Where learned models are kept."""

    def put(self, name: str, data: bytes) -> Artifact:
        """Keep bytes under a name."""

    def get(self, artifact: Artifact) -> bytes:
        """Return the bytes of an artifact, or raise CheckpointError."""


class LearnerTask(Task):
    """Works off the retrain requests of one partition."""

    role = "learner"

    def __init__(self, partition: int, around: Surroundings) -> None:
        super().__init__(partition, around, (around.topics.retrain,))
        self.store: Store = ArtifactStore(around.config.artifacts_url)
        self.retry_seconds = RETRY_SECONDS
        self.failure: Exception | None = None
        """What ended a job that should not have ended."""
        self._failed_at = 0
        """Offset of the request of that job."""
        self.last_learned: dict[str, float] = {}
        """By model: log time of the newest scored message that a job has learned from."""
        self.updates = Recent("model-updates")
        self._learned: dict[Key, Learned] = {}
        self._changed: set[Key] = set()
        self._done: set[int] = set()
        self._outputs: list[Record] = []
        self._jobs: dict[int, asyncio.Task[None]] = {}
        self._order: dict[Key, asyncio.Lock] = {}

    async def restore(self, reader: Reader, entries: Mapping[bytes, bytes]) -> None:
        """Remember what was learned; requests that were not finished come again."""
        for key, value in self.updates.restore(entries).items():
            try:
                self._recall(key, value)
            except msgspec.DecodeError as error:
                raise CheckpointError(f"the value of {key!r} cannot be read: {error}") from error

    def _recall(self, key: bytes, value: bytes) -> None:
        if key == KEPT_DONE:
            self._done = set(msgspec.msgpack.decode(value, type=list[int]))
        else:
            model, group = msgspec.msgpack.decode(key, type=Key)
            self._learned[model, group] = msgspec.msgpack.decode(value, type=Learned)

    def digest(self, batch: Batch) -> None:
        """Begin a job for each request."""
        for record in batch.records:
            if record.offset in self._done or record.offset in self._jobs:
                continue
            if record.offset in self.quarantined(batch.tp.topic):
                self.counters.add("rejected", ("retrain", QUARANTINED))
                self._done.add(record.offset)
                continue
            try:
                request = decode_retrain(record.value if record.value is not None else b"")
                self._check(request)
            except DecodeError as error:
                self._refuse(record, error)
                continue
            job = asyncio.create_task(self._run(record, request), name=f"learn {request.model}")
            self._jobs[record.offset] = job

    def _check(self, request: RetrainRequest) -> None:
        scored = request.scored
        if not (0 <= scored.partition < self.around.config.scored_partitions and 0 <= scored.from_ <= scored.cause):
            raise DecodeError(f"expected a range of scored, got {scored} - at `$.scored`", reason="out_of_range")

    def _refuse(self, record: Any, error: DecodeError) -> None:
        self._outputs.append(self.refuse("retrain", record, error))
        self._done.add(record.offset)

    async def _run(self, record: Any, request: RetrainRequest) -> None:
        try:
            # Requests of one group build on each other's models.
            async with self._order.setdefault((request.model, request.group), asyncio.Lock()):
                await self._work(request)
        except DecodeError as error:
            logger.warning("%s: request at offset %d refused: %s", self, record.offset, error)
            self._refuse(record, error)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # also what code below Python panics with: nobody else would hear of it
            self.failure = error if isinstance(error, Exception) else RuntimeError(repr(error))
            self._failed_at = record.offset
            return
        self._done.add(record.offset)
        self._jobs.pop(record.offset, None)
        self._dirty = True

    async def _work(self, request: RetrainRequest) -> None:
        key = (request.model, request.group)
        parent = self._learned.get(key)
        count = parent.count + 1 if parent else 1
        version = f"learned-{count}"
        settings = self.around.settings.of(request.model)
        task = request.task or settings.task
        if task is None:
            raise DecodeError(f"request {request.id} does not say the task of {request.model}", reason="missing_field")
        logger.info("%s: learning %s/%s on request %s", self, request.model, request.group, request.id)
        learner = Learner(
            request,
            settings,
            task,
            parent=await self._parent(parent.artifact) if parent else None,
            parent_version=parent.version if parent else None,
            version=version,
            seed=seed_of(request),
        )
        at = await self._feed(learner, request)
        result = learner.result()
        if result.refused is not None:
            assert parent is not None
            self.counters.add("recoveries", (self.role, "artifact_refused"))
            logger.warning("%s: artifact %s is left out: %s", self, parent.artifact.uri, result.refused)
        if result.features_left_out:
            self.counters.add("overflow", ("feature",), result.features_left_out)
            logger.warning(
                "%s: %s/%s has more than %d names of features: %d values were not learned from",
                self,
                request.model,
                request.group,
                INPUTS,
                result.features_left_out,
            )
        logger.info(
            "%s: %s/%s %s %s after %d rows (loss %s against %s): %s",
            self,
            request.model,
            request.group,
            version,
            result.status,
            result.rows_learned,
            result.candidate,
            result.incumbent,
            result.reason,
        )
        artifact = await self._stored(request, version, result)
        if artifact is not None:
            self._learned[key] = Learned(version, count, artifact)
            self._changed.add(key)
        update = ModelUpdate(
            id=f"{request.id}-update",
            model=request.model,
            group=request.group,
            version=version,
            parent=parent.version if parent else None,
            request=request.id,
            status=result.status,
            at=at,
            rows_learned=result.rows_learned,
            metrics=UpdateMetrics(incumbent=result.incumbent, candidate=result.candidate),
            artifact=artifact,
        )
        self.counters.add("updates", (request.model, request.group, result.status))
        self.updates.add(request.model, update)
        self._outputs.append(cloud_event(self.around.topics.model_updates, request.model, "model-update", update, at))

    async def _feed(self, learner: Learner, request: RetrainRequest) -> float:
        """Give the learner its rows until it is done; return the log time at which it was."""
        topic, partition = self.around.topics.scored, request.scored.partition
        key, at = request.model.encode(), request.at
        if learner.done:  # it wants no row
            return at
        async with self.around.reader(self.around.config) as reader:
            # What retention has removed cannot be learned any more.
            start = max(request.scored.from_, await reader.beginning(topic, partition))
            async for records in _readable(reader, topic, partition, start):
                for record in records:
                    at = record.timestamp / 1000
                    # What other models did is most of what is read, and decoding it would be most of the work.
                    message = _decoded(record) if record.key == key else None
                    if isinstance(message, ScoredBatch):
                        # River's learning is slow beside everything else here: off the loop.
                        await asyncio.to_thread(learner.feed, message, record.offset)
                        self.last_learned[request.model] = at
                    learner.advance(at)
                    if learner.done:
                        return at
        return at

    async def _parent(self, artifact: Artifact) -> bytes:
        while True:
            try:
                return await asyncio.to_thread(self.store.get, artifact)
            except CheckpointError as error:
                # Gone is gone, but a store that cannot be reached may come back.
                if isinstance(error.__cause__, FileNotFoundError) or not isinstance(error.__cause__, OSError):
                    raise
                logger.warning("%s: %s: trying again in %g s", self, error, self.retry_seconds)
                await asyncio.sleep(self.retry_seconds)

    async def _stored(self, request: RetrainRequest, version: str, result: LearnResult) -> Artifact | None:
        if result.model is None:
            return None
        name = f"{request.model}/{request.group}/{version}"
        while True:
            try:
                return await asyncio.to_thread(self.store.put, name, result.model)
            except Exception as error:  # not every store's driver raises OSError
                logger.warning("%s: cannot store %s (%r): trying again in %g s", self, name, error, self.retry_seconds)
                await asyncio.sleep(self.retry_seconds)

    def outcome(self) -> tuple[list[Record], Mapping[bytes, bytes | None]]:
        """Return model updates, what was learned, and which requests are finished out of order."""
        outputs, self._outputs = self._outputs, []
        changed, self._changed = self._changed, set()
        position = self.stored_marks()[self.inputs[0]].position
        self._done = {offset for offset in self._done if offset >= position}
        entries: dict[bytes, bytes | None] = {
            msgspec.msgpack.encode(key): msgspec.msgpack.encode(self._learned[key]) for key in changed
        }
        entries[KEPT_DONE] = msgspec.msgpack.encode(sorted(self._done))
        return outputs, {**entries, **self.updates.take()}

    def stored_marks(self) -> Mapping[Any, InputMark]:
        """Return the position of the oldest request that is still being worked on."""
        (tp,) = self.inputs
        mark = self.marks[tp]
        return {tp: mark.at(min([mark.position, *self._jobs]))}

    def place(self) -> tuple[TP, int]:
        """Return where a failure was: behind the request whose job failed."""
        return (self.inputs[0], self._failed_at + 1) if self.failure is not None else super().place()

    def suspect(self) -> tuple[TP, int] | None:
        """Return the request whose job failed."""
        return (self.inputs[0], self._failed_at) if self.failure is not None else None

    @property
    def learning(self) -> int:
        """Number of requests being worked on."""
        return len(self._jobs)

    async def close(self) -> None:
        """Stop the jobs; whoever owns the task next begins them again."""
        jobs = list(self._jobs.values())
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        await super().close()


def _decoded(record: Row) -> Scored | None:
    """Return the message in a record of ``scored``, None where it cannot be read: the monitor keeps those."""
    try:
        return decode_scored(record.value if record.value is not None else b"")
    except DecodeError:
        return None


async def _readable(reader: Reader, topic: str, partition: int, start: int) -> AsyncIterator[Records]:
    """Yield the records of ``scored`` from *start* on, without end.

    Raises:
        DecodeError: there are none: the topic was made anew, or retention was faster than we.
    """
    try:
        async for records, _ in reader.columns(topic, partition, start, follow=True):
            yield records
    except CheckpointError as error:
        raise DecodeError(str(error), reason="out_of_range") from error

"""How Faust gets its records: whole fetch batches, read committed, at positions that we choose.

Faust hands an agent one event per record; here it hands one event per partition and fetch, whose value is a
:class:`Batch`. Everything else stays Faust's: membership, assignment, rebalancing, agents, timers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, ClassVar, cast

import aiokafka
from aiokafka.consumer.fetcher import FetchError, FetchResult
from aiokafka.errors import ConsumerStoppedError, NoOffsetForPartitionError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from streamapp.config import ProcessConfig
from streamapp.stream.frames import read_frames
from streamapp.stream.records import Records
from streamapp.stream.unpack import unpack

FETCH_MAX_WAIT_MS = 500
"""How long an idle broker holds a fetch; also the resolution of "proven at its end"."""
FETCH_BYTES = 1 << 20
"""Per partition and fetch: less starves the alignment of the two inputs (measured)."""
MAX_RECORDS = 4_000
"""Records after which a hand-over ends, so that one cannot stall the loop for long."""
FLOW_WAIT_MS = 100
"""How long the broker collects records for one answer, once it had some."""
UNREAD_WAIT_MS = 50
"""How long the broker holds a fetch while partitions that are not in it wait to be handed over: one fetch is under way
at a time, so theirs has to wait for it."""
UNREAD_BACKOFF = 0.01
"""Seconds by which a fetch is put off so that such partitions can be in it."""


@dataclass(slots=True, kw_only=True)
class Batch:
    """What one fetch brought for one partition, possibly nothing but a new position."""

    tp: TP
    start: int
    """Position before these records."""
    end: int
    """Position after them: behind the last record, and behind markers that follow it."""
    records: Records

    def cut(self, most: int) -> "tuple[Batch, Batch | None]":
        """Return as many of the first records, and what is left, None where nothing is."""
        if len(self.records) <= most:
            return self, None
        middle = int(self.records.offsets[most])
        first, rest = self.records[:most], self.records[most:]
        return replace(self, end=middle, records=first), replace(self, start=middle, records=rest)


@dataclass(frozen=True, slots=True)
class EndProof:
    """A fetch that was asked for at ``requested`` (monotonic) found nothing behind ``offset``."""

    requested: float
    offset: int


class FetchFailed(Exception):
    """A partition cannot be read at its position. Park its task."""

    def __init__(self, tp: TP, error: BaseException) -> None:
        super().__init__(f"{tp.topic}[{tp.partition}]: {type(error).__name__}: {error}")
        self.tp = tp
        self.error = error


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread that owns aiokafka's consumer."""

    logger = driver.logger

    proofs: dict[TP, EndProof]
    answered: float
    """Monotonic time at which a fetch was last answered, or the thread began."""
    _transactions = True

    async def on_start(self) -> None:
        """Create and start the consumer, and begin to note where partitions end."""
        self.proofs, self.answered = {}, monotonic()
        await super().on_start()
        consumer = self._ensure_consumer()
        read_frames(consumer._client)
        self._note_ends(consumer._fetcher)
        pace(consumer._fetcher)

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        # Faust reads committed only in its own exactly-once mode, and offers no setting for the fetch sizes.
        conf = self.app.conf
        config: ProcessConfig = transport.config
        self._transactions = config.transactions
        self._assignor = self.app.assignor
        return aiokafka.AIOKafkaConsumer(
            client_id=conf.broker_client_id,
            group_id=conf.id,
            bootstrap_servers=config.broker,
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            # Out of range is never answered by starting elsewhere.
            auto_offset_reset="none",
            max_poll_interval_ms=int(conf.broker_max_poll_interval * 1000),
            max_partition_fetch_bytes=FETCH_BYTES,
            fetch_max_wait_ms=FETCH_MAX_WAIT_MS,
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
            isolation_level="read_committed" if config.transactions else "read_uncommitted",
            **config.security(),
        )

    def _note_ends(self, fetcher: Any) -> None:
        """Remember, per partition, when a fetch was asked for that found its end.

        The highwater, not the last stable offset, is what proves an end: behind the latter a record may still lie in
        an open transaction. Empty answers update it too.
        """
        original = fetcher._proc_fetch_request

        async def noting(assignment: Any, node_id: int, request: Any) -> bool:
            requested = monotonic()
            positions = {TP(topic, p): offset for topic, parts in request.topics for p, offset, _ in parts}
            marks = {tp: assignment.state_value(tp).timestamp for tp in positions}
            woke = cast(bool, await original(assignment, node_id, request))
            if assignment.active:
                for tp, offset in positions.items():
                    state = assignment.state_value(tp)
                    answered = state.timestamp is not None and state.timestamp != marks[tp]
                    if answered:
                        self.answered = monotonic()
                    if answered and state.highwater is not None and state.highwater <= offset:
                        self.proofs[tp] = EndProof(requested, offset)
            return woke

        fetcher._proc_fetch_request = noting

    def highwater(self, tp: TP) -> int:
        """Return the end of what may be read: what an open transaction holds back is not there yet."""
        consumer, aio_tp = self._ensure_consumer(), aiokafka.TopicPartition(*tp)
        end = consumer.last_stable_offset(aio_tp) if self._transactions else consumer.highwater(aio_tp)
        return cast(int, end)

    def withheld(self, tp: TP) -> int | None:
        """Return the offset from which on a transaction that is open holds records back, None where none does."""
        consumer, aio_tp = self._ensure_consumer(), aiokafka.TopicPartition(*tp)
        stable, end = consumer.last_stable_offset(aio_tp), consumer.highwater(aio_tp)
        if not self._transactions or stable is None or end is None or stable >= end:
            return None
        return cast(int, stable)

    async def group_position(self, tp: TP) -> int | None:
        """Return the group's own position on a partition, None if it never had one."""
        consumer = self._ensure_consumer()
        return cast("int | None", await self.call_thread(consumer.committed, aiokafka.TopicPartition(*tp)))

    async def commit_group(self, positions: Mapping[TP, int]) -> None:
        """Commit positions to the group. Errors are for the caller; nothing relies on them."""
        consumer = self._ensure_consumer()
        offsets = {aiokafka.TopicPartition(*tp): offset for tp, offset in positions.items()}
        await self.call_thread(consumer.commit, offsets)

    async def leave(self) -> None:
        """Leave the group."""
        await self.call_thread(self._ensure_consumer().stop)

    async def fetch(self, active: Collection[TP], timeout: float) -> list[Batch]:
        """Return what has been fetched for the active partitions, waiting up to *timeout* seconds for something.

        Raises:
            FetchFailed: a partition cannot be read at its position.
        """
        return cast(list[Batch], await self.call_thread(self._fetch, active, timeout))

    async def _fetch(self, active: Collection[TP], timeout: float) -> list[Batch]:
        consumer = self._ensure_consumer()
        fetcher = consumer._fetcher
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError
        if not self.consumer.flow_active or fetcher._subscriptions.reassignment_in_progress:
            return []
        with fetcher._subscriptions.fetch_context():
            batches = self._drain(fetcher, active)
            if not batches:
                waiter = fetcher._create_fetch_waiter()
                try:
                    await asyncio.wait_for(waiter, timeout)
                except TimeoutError:
                    return []
                if self.consumer.flow_active and not fetcher._subscriptions.reassignment_in_progress:
                    batches = self._drain(fetcher, active)
        return batches

    def _drain(self, fetcher: Any, active: Collection[TP]) -> list[Batch]:
        batches: list[Batch] = []
        # Failures first: nobody would hand over what had been taken out of others before.
        for aio_tp in sorted(fetcher._records, key=lambda each: type(fetcher._records[each]) is FetchResult):
            tp = TP(aio_tp.topic, aio_tp.partition)
            if not fetcher._subscriptions.is_assigned(aio_tp):
                del fetcher._records[aio_tp]
                continue
            if tp not in active:
                continue
            fetched = fetcher._records[aio_tp]
            if type(fetched) is not FetchResult:
                del fetcher._records[aio_tp]
                fetcher._notify(fetcher._wait_consume_future)
                if isinstance(fetched._error, NoOffsetForPartitionError):
                    continue  # asked for between an assignment and the seek that belongs to it
                raise FetchFailed(tp, fetched._error)
            state = fetched._assignment.state_value(aio_tp)
            start = state.position if fetched._assignment.active else None
            try:
                records = unpack(fetched, MAX_RECORDS)
            except Exception as error:  # a batch that is damaged, or that nothing here can decompress
                if batches:
                    fetcher._records[aio_tp] = FetchError(error=error, backoff=0)  # met again with the next call
                    return batches
                del fetcher._records[aio_tp]
                fetcher._notify(fetcher._wait_consume_future)
                raise FetchFailed(tp, error) from error
            if not fetched.has_more():
                del fetcher._records[aio_tp]
                fetcher._notify(fetcher._wait_consume_future)
            if start is None or state.position == start:
                continue  # thrown away: the position had moved, or the partition has gone
            batches.append(Batch(tp=tp, start=start, end=state.position, records=records))
        return batches


def pace(fetcher: Any) -> None:
    """Fetch much at a time where little comes, and do not wait where much does.

    Where records come one by one, a broker answers each fetch with the few that have just come, and each answer costs
    what a large one costs. So it is given a moment to collect some, once there was something.

    Where some partitions are read more slowly than others, fetching goes on for the rest. aiokafka puts a fetch off for
    a tenth of a second while anything that was fetched is unread, and then asks for the other partitions alone, which
    the broker answers after half a second if these have ended: meanwhile nothing is fetched for the first ones. Both
    starve a loop that reads two inputs in step.
    """
    fetcher._prefetch_backoff = UNREAD_BACKOFF
    original = fetcher._proc_fetch_request
    unread: dict[Any, Any] = {}
    wait = UNREAD_WAIT_MS
    flowing: set[int] = set()
    """Brokers whose last answer had records."""

    async def paced(assignment: Any, node_id: int, request: Any) -> bool:
        nonlocal unread, wait
        before, unread = unread, {tp: _position(assignment, tp) for tp in fetcher._records}
        # Longer and longer while nobody reads on: a partition may be paused for good.
        wait = min(2 * wait, FETCH_MAX_WAIT_MS) if unread == before else UNREAD_WAIT_MS
        if unread:
            request._max_wait_ms = wait
        elif node_id in flowing:
            request._max_wait_ms, request._min_bytes = FLOW_WAIT_MS, FETCH_BYTES
        brought = bool(await original(assignment, node_id, request))
        (flowing.add if brought else flowing.discard)(node_id)
        return brought

    fetcher._proc_fetch_request = paced


def _position(assignment: Any, tp: Any) -> Any:
    state = assignment.state_value(tp)
    return state.position if state is not None and state.has_valid_position else None


class Consumer(driver.Consumer):
    """Faust's consumer, handing over batches and seeking where the runtime says."""

    logger = driver.logger

    _thread: ConsumerThread
    _ends = False

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def runtime_positions(self) -> Callable[[Iterable[TP]], Awaitable[Mapping[TP, int]]]:
        """Return who knows where each partition is to be read from."""
        return cast(Transport, self.transport).positions

    def end_flow(self) -> None:
        """Hand nothing over any more, whatever is assigned from here on: the process is about to leave the group."""
        self._ends = True
        self.stop_flow()

    def resume_flow(self) -> None:
        """Hand over what comes, as Faust says after each assignment."""
        if not self._ends:
            super().resume_flow()

    async def perform_seek(self) -> None:
        """Seek every assigned partition to the position that its task has applied."""
        if self._ends:
            return  # the consumer may have gone meanwhile, and nobody asks for more
        positions = await self.runtime_positions(self.assignment())
        if positions:
            await self.seek_wait({TP(tp.topic, tp.partition): offset for tp, offset in positions.items()})
        cast(Transport, self.transport).sought(positions)

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Do nothing: tasks commit their own positions, together with what follows from them."""
        return False

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Do nothing: the runtime's watchdog sees whether a task moves."""

    async def group_position(self, tp: TP) -> int | None:
        """Return the group's own position on a partition, None if it never had one."""
        return await self._thread.group_position(tp)

    async def commit_group(self, positions: Mapping[TP, int]) -> None:
        """Commit positions to the group, for lag tools only."""
        await self._thread.commit_group(positions)

    async def leave(self) -> None:
        """Leave the group, so that others take over at once."""
        await self._thread.leave()

    def silence(self) -> float:
        """Return for how many seconds no fetch has been answered."""
        return monotonic() - self._thread.answered

    def end_proof(self, tp: TP) -> EndProof | None:
        """Return the newest proof that the partition had ended, if there is one."""
        return self._thread.proofs.get(tp)

    def clear_proofs(self) -> None:
        """Forget every proof: positions change."""
        self._thread.proofs.clear()

    def end_of(self, tp: TP) -> int | None:
        """Return the partition's end as last seen, None before the first fetch."""
        try:
            return cast("int | None", self.highwater(tp))
        except Exception:  # the partition has been taken away meanwhile
            return None

    def withheld(self, tp: TP) -> int | None:
        """Return the offset from which on a transaction that is open holds records back, None where none does."""
        try:
            return self._thread.withheld(tp)
        except Exception:  # the partition has been taken away meanwhile
            return None

    async def _drain_messages(self, fetcher: Any) -> None:
        while not (self.should_stop or fetcher.should_stop):
            if not self.flow_active:
                await self.wait_first(self.can_resume_flow.wait(), timeout=1.0)
                continue
            active = set(self._get_active_partitions())
            if not active:
                await self.sleep(0.05)
                continue
            generation = self.app.consumer_generation_id
            try:
                batches = await self._thread.fetch(active, 0.25)
            except FetchFailed as failure:
                cast(Transport, self.transport).failed(failure)
                continue
            except ConsumerStoppedError:
                if self.transport.app.should_stop or not self.flow_active:  # it has left the group
                    return
                raise
            for batch in batches:
                # The task checks the position too; this only saves work.
                if not self.flow_active or generation != self.app.consumer_generation_id:
                    break
                await self.wait_first(self._hand_over(batch), self.suspend_flow.wait())
            await asyncio.sleep(0)

    async def _hand_over(self, batch: Batch) -> None:
        message = ConsumerMessage(
            topic=batch.tp.topic,
            partition=batch.tp.partition,
            offset=batch.end - 1,
            timestamp=0.0,
            timestamp_type=0,
            headers=[],
            key=None,
            value=cast(Any, batch),
            checksum=None,
            serialized_key_size=0,
            serialized_value_size=0,
            tp=batch.tp,
            generation_id=self.app.consumer_generation_id,
        )
        await self.callback(message)


class Transport(driver.Transport):
    """The transport of the worker's app.

    Attributes:
        config: How to reach the broker.
        positions: Asked, at each seek, where partitions are to be read from.
        sought: Told when they have been sought there.
        failed: Told of a partition that cannot be read.
    """

    Consumer: ClassVar[type] = Consumer
    config: ProcessConfig
    positions: Callable[[Iterable[TP]], Awaitable[Mapping[TP, int]]]
    sought: Callable[[Mapping[TP, int]], None]
    failed: Callable[[FetchFailed], None]

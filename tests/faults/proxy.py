"""A TCP proxy between workers and a broker.

It can go silent and it can be slow; and it understands enough of Kafka's protocol to catch one request of a kind, or
the answer to it, and to do something bad to it.
"""

import asyncio
import contextlib
import enum
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from tests.faults.wire import Api, Fault, Request, correlation_of, framed, idle, parse, read_frame, refusal


class Where(enum.Enum):
    """Where something is caught."""

    REQUEST = "before the broker has it"
    ANSWER = "when the broker has done it and answers"


class Fate(enum.Enum):
    """What becomes of something that is caught."""

    HOLD = "held"
    """Nothing happens until it is let go."""
    RESET = "its connection is closed"
    MUTE = "its connection stays open, and nothing goes through it any more"
    FAULT = "answered with an error"


class _Closed(Exception):
    """This connection shall end."""


@dataclass(slots=True, kw_only=True, eq=False)
class Trap:
    """Catches the first request that fits."""

    api: Api
    where: Where
    fate: Fate
    client: str = ""
    """What the client's name contains."""
    content: bytes = b""
    """What the request contains."""
    fault: Fault = Fault.UNKNOWN_SERVER_ERROR
    caught: threading.Event = field(default_factory=threading.Event)
    client_caught: str = ""
    """Name of the client whose request it was."""
    _let_go: asyncio.Event = field(default_factory=asyncio.Event)
    _close: bool = False
    _taken: bool = False

    def take(self, request: Request) -> bool:
        """Return whether this is the one."""
        if self._taken or request.api != self.api:
            return False
        if self.client not in request.client or self.content not in request.frame:
            return False
        self._taken, self.client_caught = True, request.client
        return True

    async def spring(self) -> None:
        """Do to the connection what is to be done to it."""
        self.caught.set()
        if self.fate in (Fate.HOLD, Fate.MUTE):
            await self._let_go.wait()
        if self.fate is Fate.RESET or self._close:
            raise _Closed


class Proxy:
    """Forwards connections, on a thread of its own.

    Args:
        port: Where it listens; the broker advertises this port.
        target: The broker's port.
    """

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self.delay = 0.0
        """Seconds that each request of a connection takes longer, one after the other."""
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._traps: list[Trap] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self._thread.start()
        self._do(self._start())

    def cut(self) -> None:
        """Let nothing through: connections stay open, new ones are taken, and nothing is ever answered."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def heal(self) -> None:
        """Let everything through, also what was held back."""
        self._loop.call_soon_threadsafe(self._open.set)

    def set(self, trap: Trap) -> Trap:
        """Lie in wait."""
        self._loop.call_soon_threadsafe(self._traps.append, trap)
        return trap

    def let_go(self, trap: Trap) -> None:
        """Let what was caught go on its way."""
        self._loop.call_soon_threadsafe(trap._let_go.set)

    def drop(self, trap: Trap) -> None:
        """Close the connection of what was caught: it never arrives."""
        trap._close = True
        self.let_go(trap)

    def reset(self) -> None:
        """Be as in the beginning: whole, fast, without traps."""
        self.delay = 0.0
        self.heal()
        self._do(self._clear())

    def stop(self) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _start(self) -> None:
        self._open.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def _clear(self) -> None:
        for trap in self._traps:
            trap._close = True
            trap._let_go.set()
        self._traps.clear()

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        broker: asyncio.StreamWriter | None = None
        # One that a client closes itself while all is cut off is noticed once it is healed.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError, _Closed):
            await self._open.wait()
            answers, broker = await asyncio.open_connection("127.0.0.1", self._target)
            expected: dict[int, tuple[Trap, Request]] = {}
            ways = [asyncio.ensure_future(self._requests(reader, broker, expected))]
            ways.append(asyncio.ensure_future(self._answers(answers, writer, expected)))
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        for end in (writer, broker):
            if end is not None:
                end.close()

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, expected: dict[int, tuple[Trap, Request]]
    ) -> None:
        while True:
            frame = await read_frame(reader)
            if self.delay:
                await asyncio.sleep(self.delay)
            await self._open.wait()
            request = parse(frame)
            trap = next((trap for trap in self._traps if trap.take(request)), None)
            if trap is not None:
                if trap.where is Where.ANSWER or trap.fate is Fate.FAULT:
                    expected[request.correlation] = trap, request
                else:
                    await trap.spring()
                if trap.where is Where.REQUEST and trap.fate is Fate.FAULT:
                    frame = idle(request)  # answers come in the order of requests, so the broker is asked something
            writer.write(framed(frame))
            await writer.drain()

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, expected: dict[int, tuple[Trap, Request]]
    ) -> None:
        while True:
            frame = await read_frame(reader)
            await self._open.wait()
            trap, request = expected.pop(correlation_of(frame), (None, None))
            if trap is not None and request is not None:
                await trap.spring()
                if trap.fate is Fate.FAULT:
                    frame = refusal(request, trap.fault)
            writer.write(framed(frame))
            await writer.drain()

"""A TCP proxy between workers and a broker: it can go silent, and it can be slow."""

import asyncio
import contextlib
import struct
import threading
from collections.abc import Coroutine
from typing import Any


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
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._open.wait()
            answers, broker = await asyncio.open_connection("127.0.0.1", self._target)
            ways = [asyncio.ensure_future(self._requests(reader, broker))]
            ways.append(asyncio.ensure_future(self._answers(answers, writer)))
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        for end in (writer, broker):
            if end is not None:
                end.close()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            size = await reader.readexactly(4)
            request = await reader.readexactly(*struct.unpack(">i", size))
            if self.delay:
                await asyncio.sleep(self.delay)
            await self._open.wait()
            writer.write(size + request)
            await writer.drain()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            await self._open.wait()
            writer.write(data)
            await writer.drain()

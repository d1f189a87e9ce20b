"""A connection's answers, each read into one buffer.

aiokafka reads through :class:`asyncio.StreamReader`: a quarter of a megabyte at a time into one buffer after another,
with a pause, a task that wakes and a resume in between. Fetched answers have megabytes; here they come in as fast as
the socket has them, and the thread asks for the interpreter once where it asked for it five times.
"""

import asyncio
import struct
from collections.abc import Callable
from typing import Any, cast
from weakref import ref

KEPT_BYTES = 16 << 20
"""Largest buffer that is kept for the next answer."""

_SIZE = struct.Struct(">i")


class Frames(asyncio.BufferedProtocol):
    """Cuts what comes in at the lengths that stand before each frame.

    Args:
        handle: Takes one frame, which it must not keep.
        replaced: The protocol that this one takes the place of; hears everything but data.
    """

    def __init__(self, handle: Callable[[memoryview], None], replaced: asyncio.Protocol) -> None:
        self._handle = handle
        self._replaced = replaced
        self._head = memoryview(bytearray(_SIZE.size))
        self._kept = memoryview(bytearray(1 << 16))
        self._frame: memoryview | None = None
        """What is being filled; None: the head."""
        self._filled = 0

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go."""
        return (self._head if self._frame is None else self._frame)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Hear that so many bytes have come.

        Raises:
            ValueError: what stands before a frame is not a length. The connection is closed then.
        """
        self._filled += nbytes
        frame = self._frame
        if self._filled < len(self._head if frame is None else frame):
            return
        self._filled = 0
        if frame is None:
            self._frame = self._room(*_SIZE.unpack(self._head))
        else:
            self._frame = None
            self._handle(frame)

    def _room(self, size: int) -> memoryview:
        if size <= 0:
            raise ValueError(f"expected a frame of at least one byte, got a length of {size}")
        if size > len(self._kept):
            room = memoryview(bytearray(size))
            if size > KEPT_BYTES:
                return room
            self._kept = room
        return self._kept[:size]

    def eof_received(self) -> bool | None:
        """Hear that the other side sends no more."""
        return self._replaced.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hear that the connection is gone."""
        self._replaced.connection_lost(exc)

    def pause_writing(self) -> None:
        """Hear that too much waits to be sent."""
        self._replaced.pause_writing()

    def resume_writing(self) -> None:
        """Hear that it was sent."""
        self._replaced.resume_writing()


def read_frames(client: Any) -> None:
    """Let every connection that an aiokafka client makes to a node, from now on, read in this way."""
    original = client._get_conn

    async def get_conn(*args: Any, **named: Any) -> Any:
        connection = await original(*args, **named)
        if connection is not None:
            _replace(connection)
        return connection

    client._get_conn = get_conn


def _replace(connection: Any) -> None:
    """Replace a connection's protocol, unless something is under way that the former one has begun to read."""
    if connection._writer is None or connection._requests or connection._reader._buffer:
        return
    transport = connection._writer.transport
    protocol = transport.get_protocol()
    if isinstance(protocol, Frames):
        return
    weak = ref(connection)  # aiokafka warns of connections that are dropped unclosed: nothing may hold them

    def handle(frame: memoryview) -> None:
        connection = weak()
        if connection is not None:
            connection._handle_frame(frame)

    transport.set_protocol(Frames(handle, cast(asyncio.Protocol, protocol)))

"""Frames come out whole and in order, however a connection cuts them."""

import asyncio
import struct
from typing import Any

import aiokafka.conn
import pytest
from aiokafka.errors import KafkaConnectionError
from hypothesis import given
from hypothesis import strategies as st

from streamapp.stream import frames
from streamapp.stream.frames import KEPT_BYTES, Frames, read_frames
from tests.stream.doubles import run


class Silent(asyncio.Protocol):
    """Remembers what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def eof_received(self) -> None:
        self.heard.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.heard.append("lost")

    def pause_writing(self) -> None:
        self.heard.append("pause")

    def resume_writing(self) -> None:
        self.heard.append("resume")


def feed(protocol: Frames, data: bytes, steps: list[int]) -> None:
    """Hand data over as a socket would: at each step as much as there is, but no more than is asked for."""
    arrived, done = 0, 0
    for step in [*steps, len(data)]:
        arrived = min(arrived + step, len(data))
        while done < arrived:
            buffer = protocol.get_buffer(-1)
            assert len(buffer) > 0
            count = min(len(buffer), arrived - done)
            buffer[:count] = data[done : done + count]
            protocol.buffer_updated(count)
            done += count


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.lists(st.integers(1, 40), max_size=30))
def test_frames_are_those_that_were_sent_however_they_are_cut(sent: list[bytes], steps: list[int]) -> None:
    seen: list[bytes] = []
    protocol = Frames(lambda frame: seen.append(bytes(frame)), Silent())
    feed(protocol, b"".join(struct.pack(">i", len(each)) + each for each in sent), steps)
    assert seen == sent


def test_a_buffer_is_used_again_unless_it_is_very_large() -> None:
    seen: list[bytes] = []
    protocol = Frames(lambda frame: seen.append(bytes(frame[-1:])), Silent())
    sizes = (1 << 17, 3, KEPT_BYTES + 1, 5)
    for number, size in enumerate(sizes):
        feed(protocol, struct.pack(">i", size) + bytes(size - 1) + bytes([number]), [])
    assert seen == [b"\x00", b"\x01", b"\x02", b"\x03"]
    assert len(protocol._kept) == 1 << 17


@pytest.mark.parametrize("length", [0, -1])
def test_what_is_no_length_is_refused(length: int) -> None:
    protocol = Frames(lambda _: None, Silent())
    with pytest.raises(ValueError, match=f"got a length of {length}"):
        feed(protocol, struct.pack(">i", length), [])


def test_everything_but_data_goes_to_the_protocol_that_was_replaced() -> None:
    replaced = Silent()
    protocol = Frames(lambda _: None, replaced)
    protocol.pause_writing()
    protocol.resume_writing()
    protocol.eof_received()
    protocol.connection_lost(None)
    assert replaced.heard == ["pause", "resume", "eof", "lost"]


class Client:
    """As much of aiokafka's client as makes connections."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def _get_conn(self) -> Any:
        connection = aiokafka.conn.AIOKafkaConnection("127.0.0.1", self._port)
        await connection.connect()
        return connection


def versions(request: bytes) -> bytes:
    """Return a broker's answer to the question for versions: it knows metadata, version 0."""
    correlation = request[4:8]
    return correlation + struct.pack(">hihhh", 0, 1, 3, 0, 0)


async def broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bodies: list[bytes]) -> None:
    """Answer each request with the next of some bodies, the first one with versions; then hang up."""
    for number in range(len(bodies) + 1):
        (size,) = struct.unpack(">i", await reader.readexactly(4))
        request = await reader.readexactly(size)
        body = versions(request) if number == 0 else request[4:8] + bodies[number - 1]
        writer.write(struct.pack(">i", len(body)) + body)
    await writer.drain()
    writer.close()


def metadata(name: str) -> bytes:
    """Return metadata of version 0: no brokers, one topic without partitions."""
    return struct.pack(">iih", 0, 1, 0) + struct.pack(">h", len(name)) + name.encode() + struct.pack(">i", 0)


def test_a_connection_goes_on_in_frames_and_hears_that_it_was_hung_up() -> None:
    names = ["short", "x" * 30_000, "last"]

    async def work() -> list[str]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await broker(reader, writer, [metadata(name) for name in names])

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        client = Client(server.sockets[0].getsockname()[1])
        read_frames(client)
        connection = await client._get_conn()
        assert isinstance(connection._writer.transport.get_protocol(), Frames)
        seen = []
        for _ in names:
            answer = await connection.send(aiokafka.protocol.metadata.MetadataRequest([]))
            seen.append(answer.topics[0][1])
        while connection.connected():
            await asyncio.sleep(0)
        with pytest.raises(KafkaConnectionError):
            await connection.send(aiokafka.protocol.metadata.MetadataRequest([]))
        server.close()
        await server.wait_closed()
        return seen

    assert run(work()) == names


def test_a_connection_in_the_middle_of_an_answer_is_left_as_it_is() -> None:
    async def work() -> None:
        held = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await broker(reader, writer, [])
            await held.wait()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        connection = await Client(server.sockets[0].getsockname()[1])._get_conn()
        protocol = connection._writer.transport.get_protocol()
        connection._requests.append((7, None, asyncio.get_running_loop().create_future()))
        frames._replace(connection)
        assert connection._writer.transport.get_protocol() is protocol
        connection._requests.clear()
        connection.close()
        held.set()
        server.close()
        await server.wait_closed()

    run(work())

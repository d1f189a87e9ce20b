"""As much of Kafka's wire protocol as it takes to know one request from another, and to answer one wrongly."""

import enum
import struct
from asyncio import StreamReader
from dataclasses import dataclass


class Api(enum.IntEnum):
    """Kinds of request."""

    PRODUCE = 0
    FETCH = 1
    METADATA = 3
    JOIN_GROUP = 11
    API_VERSIONS = 18
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS_TO_TXN = 24
    END_TXN = 26


class Fault(enum.IntEnum):
    """Kafka's codes of errors that a broker may answer a commit with."""

    UNKNOWN_SERVER_ERROR = -1
    COORDINATOR_NOT_AVAILABLE = 15
    INVALID_PRODUCER_EPOCH = 47
    INVALID_TXN_STATE = 48


@dataclass(frozen=True, slots=True)
class Request:
    """One request, without the size in front of it."""

    api: int
    version: int
    correlation: int
    """Number by which its answer is known."""
    client: str
    """Name that the client gives itself."""
    frame: bytes
    """All of it."""


async def read_frame(reader: StreamReader) -> bytes:
    """Return the next request or answer, without its size."""
    size = await reader.readexactly(4)
    return await reader.readexactly(*struct.unpack(">i", size))


def framed(frame: bytes) -> bytes:
    """Return a request or an answer as it goes over the wire."""
    return struct.pack(">i", len(frame)) + frame


def parse(frame: bytes) -> Request:
    """Return what the head of a request says."""
    if len(frame) < 10:
        return Request(-1, 0, 0, "", frame)
    api, version, correlation, size = struct.unpack_from(">hhih", frame)
    return Request(api, version, correlation, frame[10 : 10 + max(size, 0)].decode(errors="replace"), frame)


def correlation_of(answer: bytes) -> int:
    """Return the number of the request that an answer belongs to."""
    return int.from_bytes(answer[:4], "big", signed=True)


def idle(request: Request) -> bytes:
    """Return a request that changes nothing and is answered in the place of another."""
    client = request.client.encode()
    return struct.pack(">hhih", Api.API_VERSIONS, 0, request.correlation, len(client)) + client


def refusal(request: Request, fault: Fault) -> bytes:
    """Return an answer to an ``EndTxn`` that says it failed."""
    assert request.api == Api.END_TXN, f"no answer is known to api {request.api}"
    assert request.version <= 2, f"EndTxn v{request.version} is answered in another way"
    throttled = 0
    return struct.pack(">iih", request.correlation, throttled, fault)

"""Addresses of brokers: who listens, who answers, which port is free."""

import contextlib
import socket
import struct

from streamapp.errors import ConfigError


def parse(broker: str) -> list[tuple[str, int]]:
    """Return the hosts and ports of ``host:port,host:port``.

    Raises:
        ConfigError: One of them is not of that form.
    """
    pairs = []
    for address in broker.split(","):
        host, _, port = address.strip().rpartition(":")
        if not host or not port.isdecimal():
            raise ConfigError(f"a broker's address must be host:port, got {address!r}")
        pairs.append((host.strip("[]"), int(port)))
    return pairs


def unreachable(broker: str, timeout: float) -> OSError | None:
    """Return None where somebody listens at one of the addresses, else what went wrong at the last.

    Kafka's clients try for themselves, but where they give up they leave threads and sockets behind.
    """
    reason: OSError | None = None
    for address in parse(broker):
        try:
            socket.create_connection(address, timeout).close()
        except OSError as error:
            reason = error
        else:
            return None
    return reason


def answers(host: str, port: int, timeout: float = 1.0) -> bool:
    """Tell whether a Kafka-protocol broker answers an ApiVersions request, without TLS, within *timeout* seconds."""
    request = struct.pack(">hhih", 18, 0, 1, -1)  # api key, version, correlation id, no client id
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        return len(connection.recv(4)) == 4
    return False


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        port: int = each.getsockname()[1]
        return port

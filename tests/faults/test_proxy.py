"""The proxy does what scenarios say of it."""

import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from streamapp.address import free_port
from tests.faults.proxy import Proxy

REQUEST = struct.pack(">i", 5) + b"hello"


def echo(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            while data := connection.recv(1024):
                connection.sendall(data)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    server = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=echo, args=(server,), daemon=True)
    thread.start()
    proxy = Proxy(free_port(), server.getsockname()[1])
    proxy.start()
    yield proxy
    proxy.stop()
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(5)


def ask(connection: socket.socket, timeout: float) -> bytes:
    connection.sendall(REQUEST)
    connection.settimeout(timeout)
    return connection.recv(1024)


def test_requests_and_answers_go_through(proxy: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port)) as connection:
        assert ask(connection, 5) == REQUEST


def test_cut_answers_nothing_and_heal_delivers_what_was_held_back(proxy: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port)) as connection:
        assert ask(connection, 5) == REQUEST
        proxy.cut()
        with pytest.raises(TimeoutError):
            ask(connection, 0.3)
        proxy.heal()
        connection.settimeout(5)
        assert connection.recv(1024) == REQUEST


def test_delay_makes_each_request_slower(proxy: Proxy) -> None:
    proxy.delay = 0.2
    with socket.create_connection(("127.0.0.1", proxy.port)) as connection:
        began = time.monotonic()
        for _ in range(2):
            assert ask(connection, 5) == REQUEST
        assert time.monotonic() - began >= 0.4

"""Fixtures that more than one part of the tests needs."""

import os
import signal
import uuid
import warnings
from collections.abc import Iterator
from typing import NoReturn

import hypothesis
import pytest

from streamapp.embedded import EmbeddedBroker, available, unavailable
from tests.kafka import Given, Kafka, Unavailable

# The suite times nothing: a busy machine is no defect.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    """Let pass two warnings that kafka-python 3.0 causes, whoever uses it; and let Ctrl-C be what it is."""
    # A shell ignores it for what runs in the background, and whatever is started from there would ignore it as well.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # When it is first imported in Python 3.11.
    config.addinivalue_line("filterwarnings", "ignore:(read|open)_text is deprecated:DeprecationWarning")
    # It leaves the socket of a refused connection to the garbage collector, which may come after the last test: the
    # line above holds during tests, the filter below when all are over.
    config.addinivalue_line("filterwarnings", "ignore:unclosed <socket.socket:ResourceWarning")
    warnings.filterwarnings("ignore", "unclosed <socket.socket", ResourceWarning)


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka | Given]:
    """A real Kafka for the whole session. Give topics and groups the prefix of the fixture ``prefix``."""
    given = os.environ.get("STREAMAPP_TEST_BROKER")
    broker = Given(given) if given else _started()
    yield broker
    broker.stop()


@pytest.fixture
def own_kafka() -> Iterator[Kafka]:
    """A real Kafka for one test, which may stop, kill and restart it."""
    broker = _started()
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def embedded() -> Iterator[EmbeddedBroker]:
    """The embedded broker for the whole session. Give topics and groups the prefix of the fixture ``prefix``."""
    if not available():
        leave_out(f"no embedded broker: {unavailable()}")
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture
def prefix() -> str:
    """A prefix for topics and groups that no other test uses."""
    return f"t{uuid.uuid4().hex[:8]}."


def leave_out(reason: str) -> NoReturn:
    """Skip the test; with ``CI=true`` nothing may be left out, so it fails there."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI=true leaves nothing out, but: {reason}")
    pytest.skip(reason)


def _started() -> Kafka:
    broker = Kafka()
    try:
        broker.start()
    except Unavailable as error:
        broker.stop()
        leave_out(f"no Apache Kafka: {error}")
    except BaseException:
        broker.stop()
        raise
    return broker

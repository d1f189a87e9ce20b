"""One broker, with its proxy, for all scenarios."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import leave_out
from tests.kafka import Unavailable, jars


@pytest.fixture(scope="session")
def faulty() -> Iterator[Any]:
    """A real Kafka that scenarios restart, kill, and reach through a proxy."""
    from tests.faults.run import Broker  # not before pytest has been told of the warnings of Kafka's client

    try:
        jars()
    except Unavailable as error:
        leave_out(f"no Apache Kafka: {error}")
    with Broker() as broker:
        yield broker

"""Runs of scenarios, made some at a time while tests wait for theirs."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import leave_out
from tests.kafka import Unavailable, jars

if TYPE_CHECKING:
    from concurrent.futures import Future

    from tests.faults.jobs import Job, Result

AT_A_TIME = 2
"""They wait more than they work."""


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> Iterator["dict[Job, Future[Result]]"]:
    """What will come of the jobs that tests of this session are for."""
    from tests.faults.jobs import Crew  # not before pytest has been told of the warnings of Kafka's client

    try:
        jars()
    except Unavailable as error:
        leave_out(f"no Apache Kafka: {error}")
    calls: list[Any] = [getattr(item, "callspec", None) for item in request.session.items]
    jobs = [call.params["job"] for call in calls if call is not None and "job" in call.params]
    with Crew(AT_A_TIME) as crew:
        yield {job: crew.submit(job) for job in dict.fromkeys(jobs)}


@pytest.fixture
def result(job: "Job", results: "dict[Job, Future[Result]]") -> "Result":
    """What came of a job."""
    return results[job].result()

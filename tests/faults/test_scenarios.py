"""Every scenario once, in its short form: ``make faults LONG=1`` runs them at length."""

import pytest

from tests.faults.jobs import Job, Result
from tests.faults.scenarios import SCENARIOS

pytestmark = [pytest.mark.integration, pytest.mark.faults, pytest.mark.timeout(600)]

JOBS = [Job(scenario=name) for name, scenario in SCENARIOS.items() if not scenario.cluster]


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.scenario)
def test_what_is_promised_holds(job: Job, result: Result) -> None:
    assert result.held, "\n".join([str(job), *result.story, result.finding])

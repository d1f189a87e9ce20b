"""Every scenario once, in its short form: ``python -m tests.faults --long`` runs them at length."""

import pytest

from tests.faults.run import Broker, Run
from tests.faults.scenarios import SCENARIOS

pytestmark = [pytest.mark.integration, pytest.mark.faults, pytest.mark.timeout(300)]

SEED = 1


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_is_lost_or_doubled_and_everything_after_is_the_same(faulty: Broker, scenario: str) -> None:
    with Run(faulty, SEED) as run:
        SCENARIOS[scenario](run)
        compared = run.check()
    assert compared["joined"] > 0
    assert compared["expired"] > 0
    assert compared["censored"] > 0
    assert compared["signals"] > 0

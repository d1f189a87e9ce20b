"""The harness notices what it is there to notice."""

import re

import pytest

from tests.faults.jobs import Job, Result

pytestmark = [pytest.mark.integration, pytest.mark.faults, pytest.mark.timeout(600)]

SETTLED = 15.0

FINDINGS = {
    ("skip-one-prediction", "restarted-once"): "no verdict",
    ("score-twice", "restarted-once"): "a second verdict",
    ("monitor-twice", "restarted-once"): "summary of monitor",
    ("monitor-forgets", "restarted-once"): "summary of monitor",
    ("detectors-forget", "restarted-once"): "state of monitor",
    ("positions-without-state", "restarted-once"): "no verdict",
    ("expire-by-newest-ts", "restarted-once"): "!=|no verdict|not accepted",
    ("outside-the-transaction", "killed-before-committing"): "a second verdict",
    ("read-uncommitted", "killed-before-committing"): "summary of monitor|signals of|no verdict",
    ("loses-a-dead-letter", "restarted-once"): "dead letters: missing",
    ("not-fenced", "stale-owner-wakes"): "a second verdict",
}
"""What the checks must say of each defect, in the least scenario that shows it; that passes without the defect."""

JOBS = {Job(scenario=scenario, mutant=mutant, settled=SETTLED): say for (mutant, scenario), say in FINDINGS.items()}


CONTROL = Job(scenario="killed-before-committing", mutant="slow-commit", settled=SETTLED)
"""No defect, but what some of the others do beside theirs."""


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.mutant)
def test_a_defect_fails_the_checks(job: Job, result: Result) -> None:
    assert not result.held, f"{job} passed"
    assert re.search(JOBS[job], result.finding), f"{job} failed for another reason: {result.finding}"


@pytest.mark.parametrize("job", [CONTROL], ids=lambda job: job.mutant)
def test_what_is_no_defect_passes(job: Job, result: Result) -> None:
    assert result.held, f"{job}: {result.finding}"

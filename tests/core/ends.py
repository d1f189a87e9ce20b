"""Rows of ``scored`` from events, by the core's own way from columns to batches."""

import numpy as np

from streamapp.core.events import Outcome, Prediction
from streamapp.core.joining.groups import Groups
from streamapp.core.joining.intake import Records
from streamapp.core.joining.results import BY_OUTCOME, Ends, batches
from streamapp.core.joining.roster import Limits, Roster
from streamapp.core.joining.runs import features, outcome_rows, prediction_rows, run, tables
from streamapp.core.joining.words import Vocabularies, Words
from streamapp.core.settings import Settings

NO_OUTCOME = Outcome(prediction_id="", ts=float("nan"))


def scored(partition, table):
    """Batches of (prediction, offset, log time, verdict, outcome, its offset, its log time), in their order."""
    predictions, offsets, log_times, verdicts, outcomes, outcome_offsets, outcome_log_times = zip(*table, strict=True)
    n = len(table)
    words = Vocabularies(Words(), Words(), Words(), Words())
    groups = Groups(Settings(), Roster(Settings(), Limits()), words.label)

    def records(offsets, log_times, events):
        return Records(np.array(offsets), np.array(log_times), [None] * n, [None] * n, list(events))

    first = run(records(offsets, [np.inf] * n, predictions), Prediction, partition, None)
    second = run(records(outcome_offsets, [np.inf] * n, outcomes), Outcome, partition, None)
    codes = np.array([groups.code(p.model, p.group, 0, 0.0) for p in predictions], dtype=np.int32)
    rows = prediction_rows(first, codes, first.hashes(), words)
    rows["log_time"] = log_times
    truths = outcome_rows(second, words.label)
    truths["log_time"] = outcome_log_times
    ends = Ends(
        rows=rows,
        outcomes=truths,
        verdict=np.array(verdicts, dtype=np.uint8),
        moment=np.array(log_times),
        cause=np.full(n, BY_OUTCOME, np.uint8),
        horizon=np.array(log_times),
        features=features(first),
        tables=tables(first),
    )
    return batches(ends, partition, groups, words)

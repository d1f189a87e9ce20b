"""Run the core over recorded events, in the order of their times: no broker, no clock, the same answer every time."""

from collections.abc import Callable, Iterator

import numpy as np

from streamapp.core.events import Outcome, Prediction
from streamapp.core.join import InputBatch
from streamapp.core.settings import Settings
from streamapp.pipeline import Pipeline
from streamapp.recording import Recording

CHUNK = 2048
"""Predictions given to the core at once. Smaller ones date signals and training more finely, and cost more."""


def replay(
    predictions: Recording,
    outcomes: Recording,
    settings: Settings,
    *,
    chunk: int = CHUNK,
    progress: Callable[[int], None] = lambda _: None,
) -> Pipeline:
    """Run the core over two recordings until the largest time of both, and return it as it then is.

    Log time is event time, since a recording has no other. At the end, pending is what has a deadline not before it.

    Args:
        predictions: What was answered.
        outcomes: What came to be known.
        settings: How models are watched.
        chunk: Events of each kind that the core is given at once.
        progress: Called with the number of events done since the last call.
    """
    pipeline = Pipeline(settings)
    first_prediction = first_outcome = 0
    for last_prediction, last_outcome in _cuts(predictions, outcomes, chunk):
        if last_prediction > first_prediction:
            pipeline.predictions(_batch(predictions, first_prediction, last_prediction))
        if last_outcome > first_outcome:
            pipeline.outcomes(_batch(outcomes, first_outcome, last_outcome))
        pipeline.advance(_reached(predictions, outcomes, last_prediction, last_outcome))
        progress(last_prediction - first_prediction + last_outcome - first_outcome)
        first_prediction, first_outcome = last_prediction, last_outcome
    return pipeline


def _cuts(predictions: Recording, outcomes: Recording, chunk: int) -> Iterator[tuple[int, int]]:
    """Yield the ends of the pieces that predictions and outcomes are given in, in turns.

    The joiner puts the two into one order by itself; pieces of the same stretch of time keep little waiting in it.
    """
    n, m = len(predictions), len(outcomes)
    start = done = 0
    while start < n or done < m:
        start = min(start + chunk, n)
        # Ties go to predictions: outcomes of the same time come after them.
        upto = m if start == n else int(np.searchsorted(outcomes.times, predictions.times[start], side="left"))
        while True:
            done = min(done + chunk, upto)
            yield start, done
            if done == upto:
                break


def _reached(predictions: Recording, outcomes: Recording, done_predictions: int, done_outcomes: int) -> float:
    """Return the latest time up to which everything has been given."""
    heads = []
    if done_predictions < len(predictions):
        heads.append(float(predictions.times[done_predictions]))
    if done_outcomes < len(outcomes):
        heads.append(float(outcomes.times[done_outcomes]))
    if heads:
        return float(np.nextafter(min(heads), -np.inf))
    return max((float(recording.times[-1]) for recording in (predictions, outcomes) if len(recording)), default=0.0)


def _batch(recording: Recording, start: int, end: int) -> InputBatch:
    events = recording.events[start:end]
    return InputBatch(
        offsets=range(start, end),
        timestamps=recording.times[start:end].tolist(),
        keys=[event.prediction_id.encode() if isinstance(event, Prediction | Outcome) else None for event in events],
        values=recording.values[start:end],
        events=events,
    )

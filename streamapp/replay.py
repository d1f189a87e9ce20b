"""Run the core over recorded events, in the order of their times: no broker, no clock, the same answer every time."""

from collections.abc import Callable, Iterator

import numpy as np

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
    for some_predictions, some_outcomes, reached in steps(predictions, outcomes, chunk):
        done = 0
        if some_predictions is not None:
            pipeline.predictions(some_predictions)
            done += len(some_predictions.offsets)
        if some_outcomes is not None:
            pipeline.outcomes(some_outcomes)
            done += len(some_outcomes.offsets)
        pipeline.advance(reached)
        progress(done)
    return pipeline


def steps(
    predictions: Recording, outcomes: Recording, chunk: int = CHUNK
) -> Iterator[tuple[InputBatch | None, InputBatch | None, float]]:
    """Yield what the core is given in turns: predictions or None, outcomes or None, and how far time has come."""
    first_prediction = first_outcome = 0
    for last_prediction, last_outcome in _cuts(predictions, outcomes, chunk):
        yield (
            _batch(predictions, first_prediction, last_prediction),
            _batch(outcomes, first_outcome, last_outcome),
            _reached(predictions, outcomes, last_prediction, last_outcome),
        )
        first_prediction, first_outcome = last_prediction, last_outcome


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


def _batch(recording: Recording, start: int, end: int) -> InputBatch | None:
    if start == end:
        return None
    nothing = [None] * (end - start)  # of keys and values: nobody asks for them here
    return InputBatch(
        offsets=range(start, end),
        timestamps=recording.times[start:end].tolist(),
        keys=nothing,
        values=nothing,
        events=recording.events[start:end],
    )

"""How a joiner comes back: its checkpoint says which records are needed, the topics hold what they are."""

from collections.abc import Mapping, Sequence

from streamapp.core.events import Outcome, Prediction, Verdict
from streamapp.core.joining import columns
from streamapp.core.joining.early import Early
from streamapp.core.joining.intake import InputBatch, Intake
from streamapp.core.joining.matching import Matching
from streamapp.core.joining.remembered import Resolved
from streamapp.errors import CheckpointError


class Rejoin:
    """Brings events that were settled before back to where they waited, without any output.

    Args:
        partition: Of both topics.
        matching: What the checkpoint restored, short of the events.
        waiting: How many predictions waited by model and group.
        allow_lost: Give predictions that are gone the verdict LOST, rather than refuse.
    """

    def __init__(
        self, partition: int, matching: Matching, waiting: Mapping[tuple[str, str], int], *, allow_lost: bool
    ) -> None:
        self._partition = partition
        self._matching = matching
        self._waiting = waiting
        self._allow_lost = allow_lost
        self._found_predictions: set[int] = set()
        self._found_outcomes: set[int] = set()
        self._matched: dict[int, list[Resolved]] = {}
        for resolved in matching.remembered.matched():
            self._matched.setdefault(resolved.outcome_offset, []).append(resolved)

    def predictions(self, intake: Intake, batch: InputBatch) -> None:
        """Take records of ``predictions`` again; those that are not needed are skipped."""
        if not len(batch.offsets):
            return
        matching, first, last = self._matching, batch.offsets[0], batch.offsets[-1]
        needed = matching.pending_pages.between(first, last)
        refused = matching.refused_pages.between(first, last)
        for offset, log_time, _, _, prediction in intake.reread(batch):
            if offset in needed and isinstance(prediction, Prediction):
                self._found_predictions.add(offset)
                pending = matching.wait(prediction, offset, log_time)
                if offset in refused:
                    pending.refused = True

    def outcomes(self, intake: Intake, batch: InputBatch, misplaced: set[int]) -> None:
        """Take records of ``outcomes`` again; those that are not needed are skipped."""
        if not len(batch.offsets):
            return
        matching, first, last = self._matching, batch.offsets[0], batch.offsets[-1]
        needed = matching.waiting_pages.between(first, last)
        repeated = matching.repeated_pages.between(first, last)
        for offset, log_time, key, value, outcome in intake.reread(batch):
            if not isinstance(outcome, Outcome):
                continue
            for resolved in self._matched.get(offset, ()):
                resolved.outcome, resolved.outcome_log_time = outcome, log_time
            if offset in needed:
                self._found_outcomes.add(offset)
                early = Early(outcome, offset, log_time, key, value, offset in misplaced, offset in repeated)
                matching.keep(early)

    def end(self, log_time: float, intakes: Mapping[str, Intake]) -> None:
        """End the restore.

        Args:
            log_time: Where the joiner stands.
            intakes: By topic.

        Raises:
            CheckpointError: Needed offsets were not found, and may not be lost.
        """
        for topic, intake in intakes.items():
            if not (intake.complete or self._allow_lost):
                raise CheckpointError(
                    f"offsets {intake.done} to {intake.applied - 1} of {topic}, partition {self._partition}, were read "
                    f"before but not settled, and not all of them are there any more"
                )
        matching = self._matching
        predictions = [offset for offset in matching.pending_pages if offset not in self._found_predictions]
        outcomes = [offset for offset in matching.waiting_pages if offset not in self._found_outcomes]
        for topic, missing in (("predictions", predictions), ("outcomes", outcomes)):
            if missing and not self._allow_lost:
                raise CheckpointError(
                    f"{len(missing)} records that the checkpoint waits for are not in partition {self._partition} "
                    f"of {topic} any more: offsets {_some(missing)}"
                )
        self._lose(predictions, log_time)
        matching.lose_outcomes(outcomes)

    def _lose(self, offsets: Sequence[int], log_time: float) -> None:
        """Give predictions that cannot be read any more their verdict.

        Their content is gone, so *log_time* stands for their times. How many there are of each group is known, and
        which offsets they had; which offset was of which group is not.
        """
        found = sum(group.pending for group in self._matching.groups.values())
        if sum(self._waiting.values()) - found != len(offsets):
            raise CheckpointError(
                f"checkpoint waits for {len(offsets)} records less, by its counts {sum(self._waiting.values()) - found}"
            )
        # Where settings have come to name a model or group since, more may be missing of one, and less of another.
        missing = [name for name, n in self._waiting.items() for _ in range(n - self._matching.group(*name).pending)]
        for (model, name), offset in zip(missing, offsets, strict=False):
            prediction = Prediction(prediction_id="", model=model, group=name, ts=log_time)
            row = (prediction, offset, log_time, Verdict.LOST, columns.NO_OUTCOME, -1, float("nan"))
            self._matching.lose_prediction(row)


def _some(offsets: Sequence[int]) -> str:
    """Return the first few offsets as text."""
    text = ", ".join(map(str, offsets[:10]))
    return f"{text}, ..., {offsets[-1]}" if len(offsets) > 10 else text

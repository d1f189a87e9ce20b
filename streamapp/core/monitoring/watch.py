"""Drift detectors of one group, fed with losses in [0, 1] of the version that answers now."""

from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from streamapp.core import drift
from streamapp.core.detection.alarm import Alarm, Detector
from streamapp.core.events import Floats, Ints
from streamapp.core.losses import unit
from streamapp.core.monitoring import packing
from streamapp.core.report import DetectorReport
from streamapp.core.settings import Loss, ModelSettings, Task

QUANTILE: Final = 0.999
"""Losses of numbers are divided by this quantile of the first ones."""
MARK_ROWS: Final = 16
"""Rows between two event times that are remembered, to say since when a change holds."""
MARKS_MAX: Final = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """An alarm, in terms of the group."""

    alarm: Alarm
    detector: str
    row: int
    """Index into the rows given."""
    at: float
    """Event time of the row that alarmed."""
    since: float
    """Event time since which the change is estimated to hold."""
    start: int
    """Losses before the estimated change, counted as :attr:`Watch.fed` counts them."""
    before: float
    """Mean loss, in the loss's own unit; likewise the next."""
    after: float
    stale: bool = False
    """Another version has come since, within the same rows."""


class Watch:
    """Maps losses to [0, 1] and shows them to the detectors.

    Losses that have no largest value (of numbers) are divided by the 99.9 % quantile of the first ``reference_rows``:
    these are held back until then. What is not finite never reaches a detector.

    Args:
        task: The model's task.
        loss: The configured loss.
        settings: The model's.
    """

    def __init__(self, task: Task, loss: Loss, settings: ModelSettings) -> None:
        self._settings = settings
        self._fixed = unit(loss, task)
        self._detectors: list[Detector] = [drift.build(spec, settings) for spec in settings.detectors]
        self._forget()

    def _forget(self) -> None:
        self._scale = self._fixed
        self._held: Floats = np.empty((3, 0))
        """Losses, own losses and event times held back, oldest first."""
        self.fed = 0
        """Losses that the detectors have seen since the last reset."""
        self._marks: list[tuple[int, float]] = []
        """Losses seen before one, and its event time: of every 16th."""

    def reset(self) -> None:
        """Forget everything: another version answers from now on."""
        for detector in self._detectors:
            detector.reset()
        self._forget()

    def feed(self, losses: Floats, own: Floats, times: Floats) -> list[Finding]:
        """Take the next rows; return what was found, in order of row, then of the detectors.

        Args:
            losses: Configured losses; those that are not finite are skipped.
            own: Losses that the outcomes carried, which are in [0, 1] already; nan elsewhere.
            times: Event times.
        """
        rows = np.flatnonzero(np.isfinite(losses))
        if len(rows) < len(losses):
            losses, own, times = losses[rows], own[rows], times[rows]
        if self._scale is not None:
            return self._show(losses, own, times, rows)
        count = min(len(losses), max(self._settings.reference_rows, 1) - self._held.shape[1])
        taken = np.stack((losses[:count], own[:count], times[:count]))
        self._held = np.concatenate((self._held, taken), axis=1)
        if self._held.shape[1] < max(self._settings.reference_rows, 1):
            return []
        held, self._held = self._held, np.empty((3, 0))
        free = held[0][np.isnan(held[1])]
        self._scale = float(np.quantile(free, QUANTILE)) if len(free) else 1.0
        cause = np.full(held.shape[1], rows[count - 1])
        found = self._show(held[0], held[1], held[2], cause)
        return found + self._show(losses[count:], own[count:], times[count:], rows[count:])

    def report(self) -> tuple[DetectorReport, ...]:
        """Return how the detectors stand."""
        return tuple(
            DetectorReport(name=one.name, state=one.state, score=one.score, threshold=one.threshold)
            for one in self._detectors
        )

    def snapshot(self) -> bytes:
        """Return the whole state, for :meth:`load`."""
        detectors = [
            (msgspec.json.encode(spec, order="sorted"), detector.snapshot())
            for spec, detector in zip(self._settings.detectors, self._detectors, strict=True)
        ]
        held = [packing.pack(column) for column in self._held]
        return msgspec.msgpack.encode((detectors, self._scale, held, self.fed, self._marks))

    def load(self, data: bytes) -> None:
        """Take over a state; detectors that were configured since begin anew."""
        kind = tuple[list[tuple[bytes, bytes]], float | None, list[bytes], int, list[tuple[int, float]]]
        detectors, scale, held, self.fed, self._marks = msgspec.msgpack.decode(data, type=kind)
        known = dict(detectors)
        for place, spec in enumerate(self._settings.detectors):
            state = known.get(msgspec.json.encode(spec, order="sorted"))
            if state is not None:
                self._detectors[place] = drift.restore(spec, self._settings, state)
        self._scale = scale if self._fixed is None else self._fixed
        self._held = np.stack([packing.floats(column) for column in held])

    def _show(self, losses: Floats, own: Floats, times: Floats, rows: Ints) -> list[Finding]:
        if not len(losses):
            return []
        scale = self._scale
        assert scale is not None
        if scale == 1.0:
            mapped = losses
        elif scale > 0.0:
            given = np.isnan(own)
            mapped = np.where(given, np.minimum(losses / scale, 1.0), own)
        else:
            # The first losses were all 0.
            mapped = np.where(np.isnan(own), (losses > 0.0).astype(np.float64), own)
        before = self.fed
        self._mark(times)
        found = [
            self._finding(alarm, detector.name, before, times, rows, scale)
            for detector in self._detectors
            for alarm in detector.update(mapped, times)
        ]
        found.sort(key=lambda finding: finding.alarm.row)
        return found

    def _finding(self, alarm: Alarm, detector: str, before: int, times: Floats, rows: Ints, scale: float) -> Finding:
        start = max(before + alarm.row + 1 - alarm.rows, 0)
        since = next((time for count, time in reversed(self._marks) if count <= start), float(times[alarm.row]))
        return Finding(
            alarm=alarm,
            detector=detector,
            row=int(rows[alarm.row]),
            at=float(times[alarm.row]),
            since=since,
            start=start,
            before=alarm.before * (scale or 1.0),
            after=alarm.after * (scale or 1.0),
        )

    def _mark(self, times: Floats) -> None:
        first = -self.fed % MARK_ROWS
        for place, time in enumerate(times[first::MARK_ROWS].tolist()):
            self._marks.append((self.fed + first + place * MARK_ROWS, time))
            if len(self._marks) > MARKS_MAX:
                del self._marks[1 : MARKS_MAX // 2 : 2]
        self.fed += len(times)

"""Drift detectors of one group, fed with losses in [0, 1] of the version that answers now."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import msgspec
import numpy as np

from streamapp.core import drift
from streamapp.core.detection.alarm import Alarm, Detector
from streamapp.core.events import Floats
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
    """Another version has come since, within the same message."""


class Shown(NamedTuple):
    """Losses as detectors see them."""

    values: Floats
    """Finite, in [0, 1]."""
    times: Floats
    """Event times."""
    held: int = 0
    """How many of them, the first ones, had been held back."""
    cause: int = 0
    """The first of them that is the cause of what is found: up to it all were held back, or came with what was."""


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

    @property
    def plain(self) -> bool:
        """Whether losses are shown to the detectors as they are."""
        return self._scale == 1.0

    def feed(self, losses: Floats, own: Floats, times: Floats) -> list[Finding]:
        """Take the next rows; return what was found, in order of row, then of the detectors.

        Args:
            losses: Configured losses; those that are not finite are skipped.
            own: Losses that the outcomes carried, which are in [0, 1] already; nan elsewhere.
            times: Event times.
        """
        rows = np.flatnonzero(np.isfinite(losses))
        shown = self.map(losses[rows], own[rows], times[rows])
        (found,) = show([self], [shown])
        return [replace(one, row=int(rows[one.row])) for one in found]

    def map(self, losses: Floats, own: Floats, times: Floats) -> Shown:
        """Return what the detectors are to see of the next rows, which are finite: for :func:`show`."""
        held = cause = 0
        if self._scale is None:
            held = self._held.shape[1]
            losses, own, times = self._held = np.concatenate((self._held, (losses, own, times)), axis=1)
            first = max(self._settings.reference_rows, 1)
            # Fewer may be asked for than were held back: then the next row brings them out.
            if len(losses) < max(first, held + 1):
                return Shown(losses[:0], times[:0])
            self._held = np.empty((3, 0))
            free = losses[:first][np.isnan(own[:first])]
            self._scale = float(np.quantile(free, QUANTILE)) if len(free) else 1.0
            cause = max(first - 1, held)
        scale = self._scale
        # It is 0 where the first losses were all 0.
        mapped = np.minimum(losses / scale, 1.0) if scale > 0.0 else (losses > 0.0).astype(np.float64)
        return Shown(bounded(np.where(np.isnan(own), mapped, own)), times, held, cause)

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

    def _find(self, shown: Shown, alarms: list[list[Alarm]]) -> list[Finding]:
        """Return what the detectors' alarms mean, in order of row, having counted the losses as fed."""
        if not any(alarms):
            self._mark(shown.times)
            return []
        scale, before, done = self._scale or 1.0, self.fed, 0
        named = [
            (alarm, detector.name) for detector, some in zip(self._detectors, alarms, strict=True) for alarm in some
        ]
        found = []
        for alarm, name in sorted(named, key=lambda pair: pair[0].row):
            # No mark is thinned out by a later row.
            self._mark(shown.times[done : alarm.row + 1])
            done = alarm.row + 1
            at = float(shown.times[alarm.row])
            start = max(before + alarm.row + 1 - alarm.rows, 0)
            found.append(
                Finding(
                    alarm=alarm,
                    detector=name,
                    row=max(alarm.row, shown.cause) - shown.held,
                    at=at,
                    since=next((time for count, time in reversed(self._marks) if count <= start), at),
                    start=start,
                    before=alarm.before * scale,
                    after=alarm.after * scale,
                )
            )
        self._mark(shown.times[done:])
        return found

    def _mark(self, times: Floats) -> None:
        first = -self.fed % MARK_ROWS
        if first < len(times):
            fresh = times[first::MARK_ROWS].tolist()
            for count, time in zip(range(self.fed + first, self.fed + len(times), MARK_ROWS), fresh, strict=True):
                self._marks.append((count, time))
                if len(self._marks) > MARKS_MAX:
                    del self._marks[1 : MARKS_MAX // 2 : 2]
        self.fed += len(times)


def bounded(losses: Floats) -> Floats:
    """Return losses within [0, 1]."""
    return np.minimum(np.maximum(losses, 0.0), 1.0)


def show(watches: Sequence[Watch], shown: Sequence[Shown]) -> list[list[Finding]]:
    """Let the detectors of several groups see losses of their own; return what was found, in order of row for each.

    Args:
        watches: With the same settings.
        shown: What each is to see; nothing for some, maybe.
    """
    losses, times = [one.values for one in shown], [one.times for one in shown]
    values = [column.tolist() for column in losses]
    alarms: list[list[list[Alarm]]] = [[] for _ in watches]
    for detectors in zip(*(watch._detectors for watch in watches), strict=True):
        for some, new in zip(alarms, drift.update_each(detectors, losses, times, values), strict=True):
            some.append(new)
    return [watch._find(one, some) for watch, one, some in zip(watches, shown, alarms, strict=True)]

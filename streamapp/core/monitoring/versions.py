"""Which version of a model answers, and how each has done."""

from typing import Final

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from streamapp.core.events import Floats, Names

VERSIONS_MAX: Final = 100
"""Versions kept, those with the newest rows."""


class Tally(Struct):
    """Rows of one version."""

    rows: int = 0
    loss_sum: float = 0.0
    losses: int = 0
    """Rows among them that have the configured loss."""
    first: float = np.inf
    """Event time of the oldest row; then of the newest."""
    last: float = -np.inf


class Stretch(Struct, frozen=True):
    """Rows that follow each other while one version answers."""

    start: int
    end: int
    version: str | None
    changed: bool
    """The version was never seen before this stretch."""
    present: NDArray[np.bool_]
    """Which of the rows count as answered by it: not those that an older version gave before it came."""


class Versions:
    """Versions of one group, in the order in which they first appear.

    The newest one never seen before is the one that answers: two that answer side by side, or a row of an old one that
    comes late, are no change. Rows without a version belong to whichever answers.
    """

    def __init__(self) -> None:
        self.current: str | None = None
        """Version that answers, None while no row has named one."""
        self.since: float | None = None
        """Event time of the first row answered by it."""
        self.since_log = -np.inf
        """Log time of that row."""
        self.tallies: dict[str, Tally] = {}

    def stretches(self, version: Names, ts: Floats, log_time: Floats) -> list[Stretch]:
        """Cut rows where a version appears that was never seen before, and answers from then on.

        Args:
            version: Of each row, n of them.
            ts: Event time of the predictions, shape (n,).
            log_time: Likewise.
        """
        code, n = version.code, len(ts)
        first = version[0]
        if (first is None or first == self.current) and (code == code[0]).all():
            return [Stretch(0, n, self.current, False, np.ones(n, np.bool_))]
        cuts: list[tuple[int, str | None, bool]] = [(0, self.current, False)]
        present = np.ones(n, np.bool_)
        seen = set(self.tallies)
        for row, (place, log) in enumerate(zip(code.tolist(), log_time.tolist(), strict=True)):
            word = version.words[place] if place >= 0 else None
            if word is None or word == self.current:
                continue
            if word not in seen and log >= self.since_log:
                self.current, self.since_log, self.since = word, log, float(ts[row])
                cuts.append((row, word, True))
            else:
                present[row] = log >= self.since_log
            seen.add(word)
        ends = [cut[0] for cut in cuts[1:]] + [n]
        return [
            Stretch(start, end, word, changed, present[start:end])
            for (start, word, changed), end in zip(cuts, ends, strict=True)
            if start < end
        ]

    def tally(self, word: str) -> Tally:
        """Return the tally of a version, to be added to; a new one where there was none."""
        return self.tallies.setdefault(word, Tally())

    def add(self, version: Names, ts: Floats, losses: Floats) -> None:
        """Count rows, with their configured losses, nan where there is none."""
        code = version.code
        found, first = np.unique(code, return_index=True)
        for place in found[np.argsort(first)].tolist():
            if place < 0:
                continue
            rows = code == place
            times, lost = ts[rows], losses[rows]
            lost = lost[~np.isnan(lost)]
            tally = self.tally(version.words[place])
            tally.rows += len(times)
            # One after the other, as where rows of many messages are counted at once.
            tally.loss_sum = float(np.add.accumulate(np.concatenate(([tally.loss_sum], lost)))[-1])
            tally.losses += len(lost)
            tally.first = min(tally.first, float(times.min()))
            tally.last = max(tally.last, float(times.max()))
        over = len(self.tallies) - VERSIONS_MAX
        if over > 0:
            others = (name for name in self.tallies if name != self.current)
            for name in sorted(others, key=lambda name: self.tallies[name].last)[:over]:
                del self.tallies[name]

    def snapshot(self) -> bytes:
        """Return the state, for :meth:`load`."""
        return msgspec.msgpack.encode((self.current, self.since, self.since_log, self.tallies))

    def load(self, data: bytes) -> None:
        """Take over a state."""
        kind = tuple[str | None, float | None, float, dict[str, Tally]]
        self.current, self.since, self.since_log, self.tallies = msgspec.msgpack.decode(data, type=kind)

"""How the loss of each group went lately, as a line of blocks."""

from collections import deque
from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

BLOCKS = "▁▂▃▄▅▆▇█"
LOOKS = 60
"""Looks with something new that a curve reaches back."""


class LossCurve:
    """Mean loss between two looks at a summary, by group, as far back as :data:`LOOKS` looks."""

    def __init__(self) -> None:
        self._totals: dict[tuple[str, str], tuple[int, float]] = {}
        self._means: dict[tuple[str, str], deque[float]] = {}

    def look(self, summary: Mapping[str, Any]) -> None:
        """Take in how the groups stand now."""
        for model, report in summary["models"].items():
            for group, figures in report["groups"].items():
                key = (model, group)
                versions = figures["versions"].values()
                rows = sum(version["rows"] for version in versions)
                loss = sum(version["rows"] * version["loss"] for version in versions if version["loss"] is not None)
                rows_before, loss_before = self._totals.get(key, (0, 0.0))
                if rows > rows_before:
                    mean = (loss - loss_before) / (rows - rows_before)
                    self._totals[key] = rows, loss
                    self._means.setdefault(key, deque(maxlen=LOOKS)).append(mean)

    def picture(self) -> Table:
        """Return one line a group: the curve, a block for each look, all on one scale, and the newest mean."""
        table = Table.grid(padding=(0, 2))
        highest = max((mean for means in self._means.values() for mean in means), default=0.0)
        for (_, group), means in self._means.items():
            table.add_row(f"loss of {group}", _curve(means, highest), f"now {means[-1]:.3f}")
        return table


def _curve(means: deque[float], highest: float) -> Text:
    curve = Text()
    for mean in means:
        share = max(0.0, mean / highest) if highest > 0 else 0.0
        block = BLOCKS[min(len(BLOCKS) - 1, int(share * len(BLOCKS)))]
        curve.append(block, "red" if share > 0.5 else "yellow" if share > 0.2 else "green")
    return curve

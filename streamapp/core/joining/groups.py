"""A model's group as the joiner knows it: its times, and what is counted for it."""

from math import inf

from streamapp.core.joining.columns import GroupArrived, ModelRows
from streamapp.core.joining.roster import OTHER
from streamapp.core.settings import Assume, Label, Settings


class Group:
    """One group of one model: settings as plain numbers, and counters."""

    __slots__ = (
        "arrived",
        "arrived_at",
        "assume",
        "collects",
        "grace",
        "model",
        "name",
        "pending",
        "remember",
        "rows",
        "window",
    )

    def __init__(self, rows: ModelRows, name: str, settings: Settings) -> None:
        found = settings.of(rows.model)
        self.model = rows.model
        self.name = name
        self.rows = rows
        self.window = float(found.outcome_window)
        self.grace = float(found.grace)
        self.remember = float(found.remember)
        self.assume: Label | None = found.on_expiry.assume if isinstance(found.on_expiry, Assume) else None
        self.collects = OTHER in (rows.model, name)
        """Whether predictions of other models or groups may count here."""
        self.pending = 0
        self.arrived = GroupArrived()
        self.arrived_at = -inf
        """Log time of the last accepted prediction."""

"""How much one transaction may carry: as much as is sent well within its timeout, however slow the way there is."""

FIRST = 4 << 20
"""Bytes, while nobody knows how fast they go."""
LEAST, MOST = 1 << 20, 32 << 20
"""However slow or fast that is."""
LONG = 0.5
"""Of the timeout: a transaction that took longer is followed by smaller ones, and none is to be larger than that."""


class Portion:
    """Bytes that a transaction may carry, by how long those before it took.

    Args:
        timeout: Seconds after which the broker gives a transaction up.
    """

    def __init__(self, timeout: float) -> None:
        self.bytes = FIRST
        self._timeout = timeout

    def heard(self, sent: int, took: float) -> None:
        """Learn from a transaction that carried *sent* bytes and took *took* seconds."""
        if took > LONG * self._timeout:
            self.bytes = max(LEAST, self.bytes // 2)
        elif 2 * self.bytes * took < LONG * self._timeout * sent:  # one twice as large as now, were it as fast as this
            self.bytes = min(MOST, 2 * self.bytes)

"""What can go wrong, by whose fault it is.

- StreamappError
    - DecodeError: a message could not be read (the sender's fault)
    - ConfigError: a setting is wrong (the operator's fault)
    - CheckpointError: stored state cannot be used (nobody may go on silently)
"""


class StreamappError(Exception):
    """Base of everything streamapp raises on purpose. Never raised itself."""

    __slots__ = ()


class DecodeError(StreamappError, ValueError):
    """A message could not be read. Skip it, count it, keep it; the stream goes on.

    Attributes:
        reason: A short closed word for counters, e.g. ``malformed``.
    """

    # A hostile producer can have millions of these made: one without a dict is made more quickly.
    __slots__ = ("reason",)

    def __init__(self, message: str, /, *, reason: str = "malformed") -> None:
        self.reason = reason  # the message is kept already, by __new__


class ConfigError(StreamappError, ValueError):
    """A setting is wrong. Refuse to start; the message names it."""


class CheckpointError(StreamappError):
    """Stored state cannot be used. Park the task; never start from zero silently."""

"""Records that a bug cannot pass: an operator moved them to ``dead-letters``, and their task leaves them out."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from streamapp.errors import DecodeError

QUARANTINED = "quarantined"
"""Reason on the dead letter, and of the rejection."""


def leave_out(decode: Callable[..., Any], offsets: Sequence[int], quarantined: Collection[int]) -> Callable[..., Any]:
    """Return what decodes a batch but does not look at the values of quarantined records.

    Args:
        decode: Takes values, and returns an event or an error for each.
        offsets: Of the values.
        quarantined: Offsets that are left out.
    """
    places = [place for place, offset in enumerate(offsets) if offset in quarantined]

    def decode_others(values: Sequence[bytes | None]) -> list[Any]:
        rest = list(values)
        for place in places:
            rest[place] = None
        events = list(decode(rest))
        for place in places:
            events[place] = DecodeError("an operator moved it to dead-letters", reason=QUARANTINED)
        return events

    return decode_others

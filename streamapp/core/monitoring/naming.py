"""Ids of outputs: the same log gives the same ids."""

from hashlib import blake2b

import msgspec

from streamapp.core.events import Position


class Naming:
    """Ids of what one ``scored`` message causes for one model.

    Args:
        identity: Of the log.
        model: Name of the model.
        position: Of the message.
    """

    def __init__(self, identity: str, model: str, position: Position) -> None:
        self._about = (identity, model, position.partition, position.offset)
        self._index = 0

    def next(self, group: str, kind: str, detector: str) -> str:
        """Return an id, 32 hexadecimal digits; never the same twice."""
        identity, model, partition, offset = self._about
        self._index += 1
        return digest(identity, model, group, kind, detector, partition, offset, self._index)


def digest(*parts: str | int | float) -> str:
    """Return a 128-bit hash of these, as 32 hexadecimal digits."""
    return blake2b(msgspec.msgpack.encode(parts), digest_size=16).hexdigest()

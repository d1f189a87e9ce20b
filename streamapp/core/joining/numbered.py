"""Checkpoint entries that are counted: ``<prefix><n>``."""

from collections.abc import Iterable

from streamapp.errors import CheckpointError


def key(prefix: bytes, number: int) -> bytes:
    """Return the key of one."""
    return prefix + str(number).encode()


def numbered(entries: Iterable[bytes], prefix: bytes) -> list[tuple[int, bytes]]:
    """Return the numbers and keys of those that begin with a prefix, lowest number first.

    Raises:
        CheckpointError: What follows the prefix is no number.
    """
    found = []
    for each in entries:
        if each.startswith(prefix):
            number = each.removeprefix(prefix)
            if not number.isdigit():
                raise CheckpointError(f"checkpoint has an entry {each.decode(errors='replace')!r}: not a number")
            found.append((int(number), each))
    return sorted(found)

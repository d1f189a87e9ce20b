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


SPANS = 12
"""Most numbers, or stretches of them, that are told of one kind of entries."""


def told(entries: Iterable[bytes]) -> str:
    """Return for people which entries there are: kinds by name, with their numbers, as ``pending 3, 5 to 9``."""
    kinds: dict[str, list[int]] = {}
    for each in entries:
        kind, _, number = each.decode(errors="replace").rpartition("/")
        numbers = kinds.setdefault(kind or number, [])
        if kind and number.isascii() and number.isdigit():
            numbers.append(int(number))
    return "; ".join(f"{kind} {_spans(sorted(numbers))}".rstrip() for kind, numbers in sorted(kinds.items()))


def _spans(numbers: list[int]) -> str:
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1] = [spans[-1][0], number]
        else:
            spans.append([number])
    words = [" to ".join(map(str, span)) for span in spans[:SPANS]]
    return ", ".join([*words, "..."] if len(spans) > SPANS else words)

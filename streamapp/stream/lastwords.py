"""What a worker process says to the one that watches it when it ends, and is told of those before it.

Counts of a process end with it, before anybody has scraped why it ended. So the watcher keeps them, and the next
process begins with them.
"""

import contextlib
import json
import os
from collections import Counter
from collections.abc import Mapping

WORDS_TO = "STREAMAPP_SUPERVISED_FD"
"""Descriptor that a process writes its last words to."""
BEFORE = "STREAMAPP_SUPERVISED_ENDS"
"""What the processes before it ended for."""

Ends = Counter[tuple[str, str]]
"""How often processes ended, by (role, reason)."""


def say(environ: Mapping[str, str], role: str, reason: str) -> None:
    """Tell the watcher, if there is one, why this process ends."""
    with contextlib.suppress(KeyError, ValueError, OSError):
        os.write(int(environ[WORDS_TO]), json.dumps([role, reason]).encode())


def heard(words: bytes) -> tuple[str, str] | None:
    """Return what a process said as (role, reason), None if it said nothing that can be understood."""
    try:
        role, reason = json.loads(words)
    except (ValueError, TypeError):
        return None
    return (role, reason) if isinstance(role, str) and isinstance(reason, str) else None


def pack(ends: Ends) -> str:
    """Return counts as the environment carries them."""
    return json.dumps([[role, reason, count] for (role, reason), count in sorted(ends.items())])


def before(environ: Mapping[str, str]) -> Ends:
    """Return what the processes before this one ended for; nothing where nobody watches."""
    try:
        return Counter({(role, reason): count for role, reason, count in json.loads(environ.get(BEFORE, "[]"))})
    except (ValueError, TypeError):
        return Counter()

"""Names of models and groups that are counted under themselves: so many, in order of their first prediction.

What comes later is counted under :data:`OTHER`. Names are never forgotten: so under which name a prediction counts
follows from its model and group alone, now and when it is read again after a restart.
"""

from collections.abc import Collection, Iterable, Mapping

import msgspec
from msgspec import Struct

from streamapp.core.settings import ModelSettings, Settings
from streamapp.errors import CheckpointError

OTHER = "other"
"""What further names are counted under; itself it is always taken."""
NAMES = b"names/"


class Limits(Struct, frozen=True, kw_only=True):
    """How many names one joiner takes, those that the settings name being taken beyond, and how much it reads again."""

    groups: int = 100
    """Of one model."""
    models: int = 1000
    reread: int = 200_000
    """Records that a restore may read again though nearly none of them waits."""


class Roster:
    """The names taken so far.

    Args:
        settings: Models and groups that they name are always taken.
        limits: How many others are.
    """

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self._settings = settings
        self._limits = limits
        self._groups: dict[str, dict[str, None]] = {}
        """By model, in order of their first predictions."""
        self._changed: dict[str, None] = {}

    def model(self, name: str) -> str:
        """Return the name that a model counts under, having taken it if there is room."""
        if name in self._groups:
            return name
        if name == OTHER or name in self._settings.models or len(self._groups) < self._limits.models:
            self._groups[name] = {}
            self._changed[name] = None
            return name
        return self.model(OTHER)

    def group(self, model: str, name: str) -> str:
        """Return the name that a group counts under, having taken it if there is room.

        Args:
            model: As :meth:`model` gave it.
            name: Of the group.
        """
        groups = self._groups[model]
        if name in groups:
            return name
        if name == OTHER or len(groups) < self._limits.groups or name in _planned(self._settings.of(model)):
            groups[name] = None
            self._changed[model] = None
            return name
        return self.group(model, OTHER)

    @property
    def taken(self) -> Mapping[str, Collection[str]]:
        """Groups by model, both in the order in which they were taken."""
        return {model: tuple(groups) for model, groups in self._groups.items()}

    def changes(self) -> dict[bytes, bytes | None]:
        """Return the checkpoint entries that changed since the last time; each is below 200 kB, as names are."""
        changed, self._changed = self._changed, {}
        if not changed:
            return {}
        numbers = {name: number for number, name in enumerate(self._groups)}
        return {
            NAMES + str(numbers[name]).encode(): msgspec.msgpack.encode((name, list(self._groups[name])))
            for name in changed
        }

    def restore(self, entries: Mapping[bytes, bytes]) -> None:
        """Take the names that a checkpoint holds, in their order.

        Raises:
            CheckpointError: An entry is missing or broken.
        """
        stored = sum(key.startswith(NAMES) for key in entries)
        for number in range(stored):
            key = NAMES + str(number).encode()
            try:
                name, groups = msgspec.msgpack.decode(entries[key], type=tuple[str, list[str]])
            except (KeyError, msgspec.DecodeError, UnicodeDecodeError) as error:
                raise CheckpointError(f"checkpoint entry {key.decode()!r} cannot be read: {error!r}") from error
            self._groups[name] = dict.fromkeys(groups)


def _planned(settings: ModelSettings) -> Iterable[str]:
    return settings.groups if settings.control is None else (*settings.groups, settings.control)

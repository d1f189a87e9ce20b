"""What ``checkpoint inspect`` finds without understanding it."""

from river.__version__ import __version__ as RIVER

from streamapp.commands.checkpoint import river_versions
from streamapp.core import pickling
from streamapp.stream.learning import KEPT_DONE


def test_the_river_versions_of_stored_objects_are_found_wherever_they_lie() -> None:
    data = pickling.dumps([1.5, "x"])
    assert river_versions([b"..." + data + b"...", b"", KEPT_DONE]) == [RIVER]
    assert river_versions([b"SAPK", b"1.2.3"]) == []

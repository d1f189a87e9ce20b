"""A pickle that is not one of ours runs nothing, asks for nothing, and is named."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from streamapp.core import pickling
from tests.hostile import pickles

Found = dict[str, tuple[str | None, int, int]]


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("canary") / "canary"


@pytest.fixture(scope="module")
def found(canary: Path) -> Found:
    """What was said of each, its bytes, and by how much the process that read it grew."""
    command = [sys.executable, "-m", "tests.hostile.pickles", str(canary.parent)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=120)
    assert done.returncode == 0, f"it ended with {done.returncode} after {done.stdout[-300:]}"
    return {name: (said, size, grown) for name, said, size, grown in map(json.loads, done.stdout.splitlines())}


def test_nothing_that_a_pickle_could_run_is_run(found: Found, canary: Path) -> None:
    for name in pickles.running(str(canary)):
        said = found[name][0]
        assert said is not None, name
        assert "not allowed" in said or "No module named" in said, (name, said)
    assert list(canary.parent.iterdir()) == []


def test_what_would_run_does_run_where_anything_is_read(tmp_path: Path) -> None:
    """The payloads are good ones: the plain unpickler obeys them."""
    place = tmp_path / "canary"
    payload = tmp_path / "payload"
    for name in (
        "os.system",
        "in an array of objects",
        "in a model",
        "the name 'posix\\nsystem'",
        "GLOBAL of protocol 0",
    ):
        payload.write_bytes(pickles.running(str(place))[name])
        read = f"import pickle; pickle.load(open({str(payload)!r}, 'rb'))"
        subprocess.run([sys.executable, "-c", read], check=False, stderr=subprocess.DEVNULL, timeout=60)
        assert place.exists(), name
        place.unlink()


def test_what_asks_for_gigabytes_is_refused_before_it_gets_them(found: Found) -> None:
    for name, pickled in pickles.asking().items():
        said, size, grown = found[name]
        assert said is not None, name
        assert (size, len(said) < 400) == (len(pickled), True)
        # What the process needs anyway, for its imports, is counted with the first.
        assert grown < 100 << 20 or grown < pickling.MEMORY + (pickling.GROWTH + 20) * size, (name, grown)


def test_what_lies_to_code_below_python_is_refused(found: Found) -> None:
    for name in pickles.lying():
        assert found[name][0] is not None, name

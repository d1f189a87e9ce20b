"""Artifacts come back as they were put, or not at all."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamapp.artifacts import ArtifactStore
from streamapp.core.events import Artifact
from streamapp.errors import CheckpointError, ConfigError


def test_bytes_come_back_and_the_same_bytes_give_the_same_artifact(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "models"))
    first = store.put("fraud/champion/v2", b"model")
    assert store.get(first) == b"model"
    assert store.put("fraud/champion/v2", b"model") == first
    assert first.uri.startswith("file://")
    assert [path.name.endswith(".model") for path in tmp_path.rglob("*") if path.is_file()] == [True]


def test_other_bytes_under_the_same_name_leave_the_first_readable(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    first, second = store.put("m/g/v", b"one"), store.put("m/g/v", b"two")
    assert (store.get(first), store.get(second)) == (b"one", b"two")


def test_another_store_reads_the_artifact_by_its_uri(tmp_path: Path) -> None:
    artifact = ArtifactStore(str(tmp_path / "a")).put("m/g/v", b"model")
    assert ArtifactStore(str(tmp_path / "b")).get(artifact) == b"model"


def test_changed_bytes_are_refused_with_both_hashes(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    artifact = store.put("m/g/v", b"model")
    [path] = [path for path in tmp_path.rglob("*") if path.is_file()]
    path.write_bytes(b"other")
    with pytest.raises(CheckpointError, match=f"expected sha256 {artifact.sha256}, found d9298a10"):
        store.get(artifact)


def test_missing_artifact_is_named(tmp_path: Path) -> None:
    uri = (tmp_path / "none.model").as_uri()
    with pytest.raises(CheckpointError, match=r"none\.model"):
        ArtifactStore(str(tmp_path)).get(Artifact(uri=uri, sha256="0" * 64, format="x"))


@pytest.mark.parametrize(
    "name", ["../x/v", "../../../x", "/etc/passwd", "a/../../b", "..", ".", "", "a//b", "C:\\x", "a\0b", "x" * 1000]
)
def test_hostile_name_stays_within_the_store(tmp_path: Path, name: str) -> None:
    root = tmp_path / "inner" / "models"
    artifact = ArtifactStore(str(root)).put(name, b"model")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 1
    assert root in files[0].resolve().parents
    assert ArtifactStore(str(root)).get(artifact) == b"model"


@given(st.text(max_size=300), st.text(max_size=300))
def test_different_names_are_different_files(one: str, other: str) -> None:
    store = ArtifactStore("memory://names")
    same = store.put(one, b"model").uri == store.put(other, b"model").uri
    assert same == (one == other)


def test_store_that_is_no_folder_works_too() -> None:
    store = ArtifactStore("memory://models")
    assert store.get(store.put("m/g/v", b"model")) == b"model"


def test_unknown_kind_of_store_is_refused_by_its_setting() -> None:
    with pytest.raises(ConfigError, match="STREAMAPP_ARTIFACTS: nosuch://x"):
        ArtifactStore("nosuch://x")


def test_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    with pytest.raises(TypeError):
        store._replace(str(tmp_path / "m.model"), "no bytes")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []

"""Where learned models are kept: a folder or any store that fsspec knows."""

import hashlib
import os
import uuid
from typing import Any
from urllib.parse import quote

import fsspec

from streamapp.core.events import Artifact
from streamapp.errors import CheckpointError, ConfigError

FORMAT = "streamapp-pickle-1"
"""What :func:`streamapp.core.pickling.dumps` writes."""
LARGEST = 1 << 30
"""Bytes of an artifact: what is said to lie at an address may be without end."""
MOST = 150
"""Bytes of one quoted part of a name; file systems take 255, and hash and endings follow it."""


class ArtifactStore:
    """Keep bytes under a name, and give them back only if they are the same.

    Args:
        url: A local folder, or an fsspec URL such as ``s3://bucket/models`` (its driver must be installed).
        largest: Bytes that :meth:`get` returns at most.

    Raises:
        ConfigError: No driver for the URL.
    """

    def __init__(self, url: str, *, largest: int = LARGEST) -> None:
        self.largest = largest
        try:
            self._fs: Any
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"STREAMAPP_ARTIFACTS: {url}: {error}") from error
        self._local = "file" in _protocols(self._fs)

    def put(self, name: str, data: bytes) -> Artifact:
        """Store *data* and return where.

        The name's parts become folders; whatever a part holds (``..``, a colon, a backslash) stays within the store.
        A reader finds the whole file or none. The same name and data give the same artifact; other data under a name
        that is taken gets a file of its own, since the file's name carries the start of its hash.

        Args:
            name: Like ``model/group/version``.
            data: What :meth:`get` will return.
        """
        digest = hashlib.sha256(data).hexdigest()
        folder = "/".join([self._root.rstrip("/"), *(_safe(part) for part in name.split("/")[:-1])])
        path = f"{folder}/{_safe(name.split('/')[-1])}.{digest[:16]}.model"
        self._fs.makedirs(folder, exist_ok=True)
        if self._local:
            self._replace(path, data)
        else:  # object stores show a file when it is complete
            self._fs.pipe_file(path, data)
        return Artifact(uri=str(self._fs.unstrip_protocol(path)), sha256=digest, format=FORMAT)

    def get(self, artifact: Artifact) -> bytes:
        """Return the bytes of an artifact, from this store or any other that fsspec reaches.

        Raises:
            CheckpointError: It is not there, it is larger than :data:`LARGEST`, or it is not what was stored; the
                message has both hashes.
        """
        try:
            with fsspec.open(artifact.uri, "rb") as file:
                data = bytes(file.read(self.largest + 1))
        except (OSError, ImportError, ValueError) as error:
            raise CheckpointError(f"artifact {artifact.uri} cannot be read: {error}") from error
        if len(data) > self.largest:
            raise CheckpointError(f"artifact {artifact.uri}: expected at most {self.largest} bytes, found more")
        found = hashlib.sha256(data).hexdigest()
        if found != artifact.sha256:
            raise CheckpointError(f"artifact {artifact.uri}: expected sha256 {artifact.sha256}, found {found}")
        return data

    def _replace(self, path: str, data: bytes) -> None:
        part = f"{path}.{uuid.uuid4().hex}.part"
        try:
            with open(part, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            if os.path.exists(part):
                os.unlink(part)
            raise


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _safe(part: str) -> str:
    """Quote one part so that it names one file on every system, and differently for different parts."""
    quoted = quote(part, safe="")
    if not quoted.strip("."):
        quoted = quoted.replace(".", "%2E") or "%"
    if len(quoted) > MOST:
        quoted = f"{quoted[: MOST - 17]}~{hashlib.sha256(part.encode()).hexdigest()[:16]}"
    return quoted

"""Twenty thousand messages, half of them bad, through a worker on a real Kafka. The long form: tests.hostile."""

import time
from typing import Any

import pytest

from tests.hostile.generator import Generator
from tests.hostile.run import trial

MEMORY = 250 << 20
"""Bytes that a worker may need for it, beyond what it needs for nothing: far below what the messages would take."""


@pytest.mark.integration
def test_a_hostile_stream_is_counted_and_kept_and_stops_nothing(kafka: Any, tmp_path: Any, prefix: str) -> None:
    messages = Generator(5000, 11, bad=1.0, odd=0.2, huge=0.005, now=time.time())
    found = trial(kafka.bootstrap, tmp_path, prefix, messages)
    assert found.problems == []
    assert found.bad > 8000
    assert len(found.kinds) > 100
    assert found.rss_peak - found.rss_before < MEMORY

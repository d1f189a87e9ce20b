"""Why processes ended is known to the one that comes after them."""

import os
from collections import Counter
from pathlib import Path

import pytest

from streamapp.stream import lastwords
from streamapp.stream.lastwords import BEFORE, WORDS_TO, before, heard, pack
from tests.stream.test_worker import Running, until


def test_what_is_said_is_heard() -> None:
    ear, mouth = os.pipe()
    lastwords.say({WORDS_TO: str(mouth)}, "joiner", "fenced")
    os.close(mouth)
    assert heard(os.read(ear, 4096)) == ("joiner", "fenced")
    os.close(ear)


@pytest.mark.parametrize("environ", [{}, {WORDS_TO: "x"}, {WORDS_TO: "987654"}])
def test_where_nobody_listens_nothing_is_said(environ: dict[str, str]) -> None:
    lastwords.say(environ, "joiner", "fenced")


@pytest.mark.parametrize("words", [b"", b"\xff", b"{", b"3", b"[1, 2]", b'["joiner"]', b'["a", "b", "c"]'])
def test_what_cannot_be_understood_was_not_said(words: bytes) -> None:
    assert heard(words) is None


def test_counts_come_back_as_they_were_packed() -> None:
    ends = Counter({("joiner", "fenced"): 2, ("worker", "killed"): 1})
    assert before({BEFORE: pack(ends)}) == ends
    assert before({}) == before({BEFORE: "x"}) == before({BEFORE: "[[1]]"}) == Counter()


def test_a_worker_is_told_what_those_before_it_ended_for(tmp_path: Path) -> None:
    words = f'printf "%s" "[\\"monitor\\", \\"fenced\\"]" > /dev/fd/${WORDS_TO}; exit 1'
    script = f"""
        echo "${BEFORE}" >> "$FILE.before"
        case $(wc -l < "$FILE") in
            1) {words};;
            2) kill -9 $$;;
            3) exit 1;;
            4) {words};;
        esac
    """
    running = Running(tmp_path, script)
    assert running.ended() == 0
    told = [before({BEFORE: line}) for line in (tmp_path / "starts.before").read_text().splitlines()]
    assert told[0] == Counter()
    assert told[-1] == Counter(
        {("monitor", "fenced"): 2, ("worker", "killed"): 1, ("worker", "failed"): 1},
    )
    assert running.supervisor.ends == told[-1]


def test_whoever_outlives_the_worker_does_not_keep_its_watcher_waiting(tmp_path: Path) -> None:
    running = Running(tmp_path, '[ "$(wc -l < "$FILE")" -ge 2 ] || { sleep 30 & echo $! > "$FILE.pid"; exit 1; }')
    try:
        until(lambda: len(running.starts) == 2)
        assert running.ended() == 0
    finally:
        os.kill(int((tmp_path / "starts.pid").read_text()), 9)

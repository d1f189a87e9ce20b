"""Every verb has help and the exit codes that the contract names; a user's mistake is one line."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaProducer
from prometheus_client import CollectorRegistry

from streamapp.cli import main
from streamapp.config import VARIABLES
from streamapp.core.events import DeadLetter
from streamapp.embedded import EmbeddedBroker
from streamapp.stream.dead_letters import dead_letter
from streamapp.stream.topics import Topics
from streamapp.tables import interactive
from streamapp.web.server import Readiness, WebServer

VERBS = ["demo", "worker", "replay", "simulate", "topics", "check", "status", "scored tail"]
VERBS += ["dead-letters list", "dead-letters redrive", "checkpoint inspect", "checkpoint reset", "skip"]
PLACE = ("--topic", "outcomes", "--partition", "0", "--offset", "0")
LETTER = '{"prediction_id": "a", "model": "m→😀", "ts": 1.0, "prediction": 1.0}\n'
NOBODY = "127.0.0.1:9"
"""The discard port: nothing listens there."""


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return end.value.code if isinstance(end.value.code, int) else 0


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_that_names_the_exit_codes(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*verb.split(), "--help") == 0
    shown = capsys.readouterr().out
    assert "Usage:" in shown
    assert "Exit codes: 0" in shown


def test_help_of_worker_lists_every_variable_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    run("worker", "--help")
    shown = capsys.readouterr().out
    for variable in VARIABLES:
        assert f"{variable.name} [{variable.default}]" in shown if variable.default else variable.name in shown
        assert variable.help in shown


def test_help_loads_no_library_that_it_does_not_need() -> None:
    code = "import sys\nfrom streamapp.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += (
        "print([m for m in ('numpy', 'river', 'faust', 'kafka', 'aiokafka', 'prometheus_client') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_python_dash_m_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "streamapp", "check", "/none.toml"], capture_output=True, timeout=60)
    assert done.returncode == 2
    assert b"/none.toml: no such file" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("unknown",),
        ("replay",),
        ("demo", "--for", "soon"),
        ("checkpoint", "inspect", "--role", "joyner"),
        ("dead-letters", "list", "--limit", "0"),
        ("checkpoint", "reset"),
        ("skip", *PLACE[:4]),
        ("skip", *PLACE[:5], "-1"),
        ("skip", "--topic", "signals", *PLACE[2:]),
        ("demo", "--scenario", "sudden"),
        ("worker", "--only", "joyner"),
        ("worker", "--models", "/none.toml"),
        ("replay", "--predictions", "-", "--outcomes", "-"),
        ("replay", "--predictions", "/none.jsonl", "--outcomes", "/none.jsonl"),
        ("replay", "--predictions", "/none.jsonl", "--outcomes", "/none.jsonl", "--models", "/none.toml"),
        ("status", "--url", "ftp://x"),
        ("status", "--url", f"http://{NOBODY}"),
        ("status", "--url", "http://localhost:60x66"),
    ],
    ids=" ".join,
)
def test_bad_usage_is_one_line_and_exit_code_two(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" or arguments == ("replay",)
    assert "Traceback" not in said.err
    assert said.err


@pytest.mark.parametrize(
    "verb",
    [
        ("topics", "--check", "--timeout", "0.2"),
        ("topics", "--create", "--timeout", "0.2"),
        ("scored", "tail"),
        ("dead-letters", "list"),
        ("dead-letters", "redrive"),
        ("dead-letters", "redrive", "--dry-run"),
        ("checkpoint", "inspect"),
        ("checkpoint", "reset", "--model", "m", "--yes"),
        ("skip", *PLACE),
        ("simulate",),
    ],
    ids=" ".join,
)
def test_a_broker_that_does_not_answer_is_named(
    verb: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMAPP_BROKER", NOBODY)
    assert run(*verb) == 2
    assert NOBODY in capsys.readouterr().err


@pytest.mark.parametrize("verb", [("checkpoint", "reset", "--model", "m", "--yes"), ("skip", *PLACE)], ids=" ".join)
def test_without_transactions_nothing_that_is_stored_is_changed(
    verb: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMAPP_TRANSACTIONS", "false")
    assert run(*verb) == 2
    assert "without transactions a worker may write at the same time" in capsys.readouterr().err


def test_check_exits_two_where_there_is_no_file_to_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", str(tmp_path / "none.toml")) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_check_exits_one_for_a_bad_file_and_names_the_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "models.toml"
    file.write_text("[models.fraud]\nbudgets = 1\n")
    assert run("check", str(file)) == 1
    assert f"{file}: models.fraud: 'budgets' is not a setting: did you mean budget?" in capsys.readouterr().out
    assert run("check", str(file), "--json") == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_check_exits_zero_for_a_good_file_and_says_what_waits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "models.toml"
    file.write_text("[models.fraud.comparison]\nalpha = 0.05\n")
    assert run("check", str(file)) == 0
    assert "note: models.fraud.comparison: read and checked, not in effect yet" in capsys.readouterr().out
    assert run("check", str(file), "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["models"], len(report["notes"])) == (True, ["fraud"], 1)


def test_topics_shows_its_plan_without_a_broker(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMAPP_BROKER", NOBODY)
    monkeypatch.setenv("STREAMAPP_PARTITIONS", "3")
    assert run("topics", "--json") == 0
    plans = {plan["name"]: plan for plan in json.loads(capsys.readouterr().out)["topics"]}
    assert plans["streamapp.predictions"]["partitions"] == plans["streamapp.outcomes"]["partitions"] == 3
    assert plans["streamapp.checkpoints-joiner"]["config"]["cleanup.policy"] == "compact"
    assert run("topics") == 0
    assert "streamapp.scored" in capsys.readouterr().out


@pytest.mark.embedded
def test_topics_are_made_once_filled_by_simulate_and_read_by_tail(
    embedded: EmbeddedBroker, prefix: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("BROKER", embedded.bootstrap),
        ("TOPIC_PREFIX", prefix),
        ("PARTITIONS", "2"),
        ("SCORED_PARTITIONS", "1"),
        ("TRANSACTIONS", "false"),
    ):
        monkeypatch.setenv(f"STREAMAPP_{name}", value)
    assert run("topics", "--check") == 1
    assert f"{prefix}predictions" in capsys.readouterr().out
    assert run("topics", "--create", "--json") == 0
    assert f"{prefix}scored" in json.loads(capsys.readouterr().out)["created"]
    assert run("topics", "--create") == 0
    assert "every topic was there already" in capsys.readouterr().out
    assert run("simulate", "--events", "100", "--rate", "2000", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["published"] == report["delivered"] >= 190
    assert report["failed"] == report["dropped"] == report["rejected"] == 0
    assert run("scored", "tail", "--from-beginning", "--until-end") == 0
    assert capsys.readouterr().out == ""


@pytest.mark.embedded
def test_letters_are_redriven_once_without_transactions_too(
    embedded: EmbeddedBroker, prefix: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("BROKER", embedded.bootstrap), ("TOPIC_PREFIX", prefix), ("TRANSACTIONS", "false")):
        monkeypatch.setenv(f"STREAMAPP_{name}", value)
    assert run("topics", "--create") == 0
    found = DeadLetter(
        topic="outcomes", partition=0, offset=3, key=b"k", value=b"{", reason="malformed", error="no JSON"
    )
    record = dead_letter(Topics(prefix), found)
    kafka = KafkaProducer(bootstrap_servers=embedded.bootstrap)
    kafka.send(record.topic, key=record.key, value=record.value, headers=list(record.headers))
    kafka.flush()
    kafka.close()
    capsys.readouterr()
    assert run("dead-letters", "redrive") == 0
    assert capsys.readouterr().out == f"1 sent to {prefix}outcomes\n"
    assert run("dead-letters", "redrive") == 0
    assert "1 left alone, redriven before" in capsys.readouterr().out
    assert run("checkpoint", "inspect", "--role", "learner") == 0
    assert "learner-0: nothing stored" in capsys.readouterr().out


def test_status_names_what_is_parked_and_the_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    command = "streamapp skip --topic t.predictions --partition 3 --offset 51200"
    parked = Readiness(ready=False, reason="tasks are parked", details={"joiner-3": f"failed; {'so ' * 50}{command}"})
    server = WebServer(
        "127.0.0.1", 0, registry=CollectorRegistry(), summary=lambda: {"models": {}}, readiness=lambda: parked
    )
    server.start()
    try:
        assert run("status", "--url", server.url) == 1
        said = capsys.readouterr().out
        assert run("status", "--url", server.url, "--json") == 1
        assert command in json.loads(capsys.readouterr().out)["readiness"]["details"]["joiner-3"]
    finally:
        server.stop()
    assert "not ready: tasks are parked" in said
    assert command in said


@pytest.fixture
def stranger(request: pytest.FixtureRequest) -> Iterator[str]:
    """Address at which something that is no worker says what the test names."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    caller, _ = server.accept()
                except OSError:
                    return
                with caller:
                    caller.recv(65536)
                    caller.sendall(request.param)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    "stranger",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    ],
    ids=["no HTTP", "cut off", "another service"],
    indirect=True,
)
def test_status_says_in_a_line_that_something_else_answers(stranger: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("status", "--url", stranger) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"streamapp: {stranger}")
    assert said.count("\n") == 1


def verb(*arguments: str, shell: str = "", **environ: str) -> subprocess.CompletedProcess[bytes]:
    """Run a verb in a process of its own, with what a shell puts behind it."""
    command = f'"$0" -m streamapp "$@" {shell}'
    return subprocess.run(
        ["bash", "-c", f"{command}", sys.executable, *arguments],
        capture_output=True,
        timeout=60,
        env={**os.environ, **environ},
    )


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "p").write_text(LETTER)
    (tmp_path / "o").write_text("")
    return ("--predictions", str(tmp_path / "p"), "--outcomes", str(tmp_path / "o"))


@pytest.mark.parametrize("arguments", [("topics", "--json"), ("topics",), ("topics", "--help")], ids=" ".join)
def test_a_reader_that_has_gone_is_no_problem(arguments: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "streamapp", *arguments], stdout=write, stderr=subprocess.PIPE, timeout=60
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_names_that_the_output_has_no_letters_for_are_escaped(recorded: tuple[str, ...], encoding: str) -> None:
    shown = verb("replay", *recorded, PYTHONIOENCODING=encoding)
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert rb"m\u2192\U0001f600" in shown.stdout
    given = verb("replay", *recorded, "--json", PYTHONIOENCODING=encoding)
    assert given.stdout.isascii()
    assert list(json.loads(given.stdout)["models"]) == ["m→😀"]


def test_standard_input_that_is_closed_is_named(recorded: tuple[str, ...]) -> None:
    done = verb("replay", "--predictions", "-", *recorded[2:], shell="<&-")
    assert done.returncode == 2
    assert done.stderr == b"streamapp: standard input is closed, there is nothing to read\n"


def test_nobody_is_asked_where_standard_input_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert not interactive()


def test_a_metrics_file_that_cannot_be_written_is_said_before_the_run(
    recorded: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(recorded[1]).write_text("no event\n")
    assert run("replay", *recorded, "--metrics-out", str(tmp_path / "none" / "x")) == 2
    assert capsys.readouterr().err == f"streamapp: {tmp_path}/none/x: cannot be written (No such file or directory)\n"
    assert run("replay", "--predictions", "/none", *recorded[2:], "--metrics-out", str(tmp_path / "x")) == 2
    assert not (tmp_path / "x").exists()


def test_names_do_not_command_the_terminal(recorded: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    Path(recorded[1]).write_text(json.dumps({**json.loads(LETTER), "model": "a\x1b[2J\nb", "group": "\x9bg"}))
    assert run("replay", *recorded) == 0
    shown = capsys.readouterr().out
    assert r"a\x1b[2J\nb" in shown
    assert r"\x9bg" in shown

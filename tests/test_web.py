"""The worker's pages answer, say whether it is ready, and are safe to open."""

import gzip
import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge
from rich.console import Console

from streamapp.errors import ConfigError
from streamapp.tables import summary_view
from streamapp.web.server import Readiness, WebServer
from tests.conftest import leave_out

HOSTILE = "<img src=x onerror=alert(1)>"
SUMMARY: dict[str, Any] = {
    "models": {
        "fraud": {
            "task": "binary",
            "groups": {
                "champion": {
                    "predictions": 12000,
                    "outcomes": 11900,
                    "expired": 7,
                    "censored": 0,
                    "lost": 0,
                    "pending": 93,
                    "metrics": {
                        "accuracy": 0.9312,
                        "precision": 0.9,
                        "recall": 0.8,
                        "f1": 0.847,
                        "log_loss": 0.21,
                        "brier": 0.051,
                        "roc_auc": 0.98,
                        "ece": None,
                    },
                    "baselines": {
                        "prior": {"brier": 0.2, "error": 0.21, "rows": 11000},
                        "persistence": {"error": 0.34, "rows": 11890},
                    },
                    "skill": {"prior": 0.745, "persistence": -0.1},
                    "latency": {"p50": 0.0021, "p95": 0.004, "p99": 0.3},
                    "outcome_delay": {"p50": 0.6, "p95": 140.0},
                    "versions": {
                        "v1": {"rows": 9000, "loss": 0.06, "first": 1.7e9, "last": 1.7e9 + 60},
                        HOSTILE: {"rows": 2900, "loss": 0.02, "first": 1.7e9 + 60, "last": 1.7e9 + 90},
                    },
                },
                HOSTILE: {
                    "predictions": 3,
                    "outcomes": 0,
                    "expired": 0,
                    "censored": 0,
                    "lost": 0,
                    "pending": 3,
                    "metrics": {},
                    "baselines": {},
                    "skill": {},
                    "latency": {"p50": None, "p95": None, "p99": None},
                    "outcome_delay": {"p50": None, "p95": None},
                    "versions": {},
                },
            },
            "signals": [
                {
                    "at": 1.7e9 + 50,
                    "severity": "act",
                    "group": "champion",
                    "kind": "drift",
                    "detector": "policy",
                    "direction": "up",
                    "reference": 0.05,
                    "value": 0.4,
                }
            ],
            "decisions": [],
            "retrain": [{"at": 1.7e9 + 51, "group": "champion", "reason": "drift", "window": {"rows": 600}}],
            "reviews": 0,
            "model_updates": [
                {
                    "at": 1.7e9 + 58,
                    "group": "champion",
                    "version": "v2",
                    "status": "accepted",
                    "rows_learned": 900,
                    "metrics": {"incumbent": 0.41, "candidate": 0.03},
                }
            ],
        }
    },
    "events": {"predictions": {"read": 12003, "rejected": 2}, "outcomes": {"read": 11900, "rejected": 0}},
}


class Shown:
    """What a worker would show; tests change it while the server runs."""

    def __init__(self) -> None:
        self.summary: Mapping[str, Any] = SUMMARY
        self.readiness = Readiness(ready=True)


@pytest.fixture
def shown() -> Shown:
    return Shown()


@pytest.fixture
def server(shown: Shown) -> Iterator[WebServer]:
    registry = CollectorRegistry()
    Gauge("streamapp_test_ratio", "A gauge.", registry=registry).set(0.5)
    with WebServer(
        "127.0.0.1", 0, registry=registry, summary=lambda: shown.summary, readiness=lambda: shown.readiness
    ) as running:
        yield running


def get(server: WebServer, path: str, **headers: str) -> tuple[int, Any, bytes]:
    request = urllib.request.Request(server.url + path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def test_a_free_port_is_taken_and_told(server: WebServer) -> None:
    assert server.port > 0
    assert server.url == f"http://127.0.0.1:{server.port}"
    assert get(server, "/healthz")[0] == 200


def test_an_address_in_use_is_a_configuration_error(server: WebServer) -> None:
    with pytest.raises(ConfigError, match=f"STREAMAPP_WEB_PORT: cannot listen on 127.0.0.1:{server.port}"):
        WebServer(
            "127.0.0.1",
            server.port,
            registry=CollectorRegistry(),
            summary=dict,
            readiness=lambda: Readiness(ready=True),
        )


def test_readiness_is_a_status_and_a_reason(server: WebServer, shown: Shown) -> None:
    assert get(server, "/readyz")[0] == 200
    shown.readiness = Readiness(ready=False, reason="joiner 3 is parked", details={"parked": ["joiner 3"]})
    status, _, body = get(server, "/readyz")
    assert status == 503
    assert json.loads(body) == {"ready": False, "reason": "joiner 3 is parked", "details": {"parked": ["joiner 3"]}}


def test_the_summary_is_served_as_json_with_null_for_undefined(server: WebServer, shown: Shown) -> None:
    shown.summary = {"models": {}, "x": float("nan")}
    status, headers, body = get(server, "/api/summary")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body) == {"models": {}, "x": None}


def test_metrics_are_negotiated(server: WebServer) -> None:
    _, headers, body = get(server, "/metrics")
    assert headers["Content-Type"].startswith("text/plain")
    assert b"streamapp_test_ratio 0.5\n" in body
    _, headers, body = get(server, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    _, headers, body = get(server, "/metrics", Accept_Encoding="gzip")
    assert b"streamapp_test_ratio 0.5\n" in gzip.decompress(body)


@pytest.mark.parametrize(
    "accepted",
    [
        "text/plain;version=x",
        "application/openmetrics-text; version=abc",
        "application/openmetrics-text;version=1.0.x",
        "application/openmetrics-text;version=2.x",
        'text/plain; version="1.0.0"',
        "text/plain;version=" + "9" * 5000,
        "text/plain;version=,",
    ],
)
def test_a_version_that_is_none_is_answered_in_the_plain_format(server: WebServer, accepted: str) -> None:
    status, headers, body = get(server, "/metrics", Accept=accepted)
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b"streamapp_test_ratio 0.5\n" in body


@pytest.mark.parametrize("version", ["0.0.1", "1.0.0", "2.0.0", "99.1"])
def test_any_version_of_numbers_is_answered(server: WebServer, version: str) -> None:
    accepted = f"application/openmetrics-text;version={version};q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
    assert get(server, "/metrics", Accept=accepted)[0] == 200


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip", "gzip"),
        ("deflate, gzip;q=0.5", "gzip"),
        ("GZIP; q=1.0", "gzip"),
        ("gzip;q=0", None),
        ("deflate, gzip; q=0.000", None),
        ("identity", None),
    ],
)
def test_gzip_is_for_those_who_take_it(server: WebServer, accepted: str, encoding: str | None) -> None:
    assert get(server, "/metrics", Accept_Encoding=accepted)[1]["Content-Encoding"] == encoding


def test_other_paths_and_methods_are_refused(server: WebServer) -> None:
    assert get(server, "/nothing")[0] == 404
    assert get(server, "/../etc/passwd")[0] == 404
    request = urllib.request.Request(server.url + "/api/summary", method="POST", data=b"{}")
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=10)
    with error.value as answer:
        assert (answer.code, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_head_has_the_headers_and_no_body(server: WebServer) -> None:
    request = urllib.request.Request(server.url + "/", method="HEAD")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert int(answer.headers["Content-Length"]) > 1000
        assert answer.read() == b""


def test_the_page_asks_nobody_else_and_runs_only_its_own_script(server: WebServer) -> None:
    _, headers, body = get(server, "/")
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "connect-src 'self'" in policy
    page = body.decode()
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", page)
    assert "innerHTML" not in page
    assert " style=" not in page


def test_stopping_frees_the_port(shown: Shown) -> None:
    def start(port: int) -> WebServer:
        return WebServer(
            "127.0.0.1", port, registry=CollectorRegistry(), summary=dict, readiness=lambda: shown.readiness
        )

    with start(0) as first:
        pass
    with start(first.port) as second:
        assert get(second, "/healthz")[0] == 200


@pytest.fixture
def chromium() -> str:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        leave_out("Chromium is not installed")
    return path


def open_page(chromium: str, url: str, profile: Path, *more: str) -> str:
    quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    quiet += [
        "--disable-component-update",
        "--disable-sync",
        "--no-sandbox",
        "--headless",
        "--virtual-time-budget=3000",
    ]
    command = [chromium, *quiet, f"--user-data-dir={profile}", "--enable-logging=stderr", "--log-level=0", *more, url]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "CONSOLE" not in run.stderr, run.stderr
    return run.stdout


@pytest.mark.browser
def test_a_browser_shows_models_groups_and_what_happened(server: WebServer, chromium: str, tmp_path: Path) -> None:
    page = open_page(chromium, server.url, tmp_path, "--dump-dom")
    shown = re.sub(r"\s+", " ", re.sub(r"<script>.*</script>", "", page, flags=re.DOTALL))
    assert 'data-model="fraud"' in shown
    assert 'data-group="champion"' in shown
    assert "+0.745" in shown
    assert "asked for training on 600 rows" in shown
    assert "v2: loss 0.4100 → 0.0300, 900 rows learned" in shown
    assert ">ready<" in shown
    assert "<img" not in shown
    assert "&lt;img src=x onerror=alert(1)&gt;" in shown


@pytest.mark.browser
def test_a_browser_says_what_it_waits_for(server: WebServer, shown: Shown, chromium: str, tmp_path: Path) -> None:
    shown.summary = {"models": {}, "events": {}}
    shown.readiness = Readiness(ready=False, reason="waiting for the broker at localhost:9092")
    page = open_page(chromium, server.url, tmp_path, "--dump-dom")
    assert "not ready: waiting for the broker at localhost:9092" in page
    assert "No model seen yet" in page


NO_OUTCOME = "No outcome yet: quality is known when outcomes come."
NO_ROW = "No row could be scored so far."


@pytest.mark.browser
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"outcomes": 0, "loss": None}, [NO_OUTCOME]),
        ({"outcomes": 5, "unscorable": 5, "loss": None}, [NO_ROW]),
        ({"outcomes": 5, "loss": {"name": "brier", "mean": 0.25, "rows": 5}, "metrics": {"brier": 0.25}}, []),
    ],
    ids=["no outcome", "no row scored", "no baseline"],
)
def test_a_browser_says_why_quality_is_not_known(
    server: WebServer, shown: Shown, chromium: str, tmp_path: Path, changes: Mapping[str, Any], said: list[str]
) -> None:
    group = {**SUMMARY["models"]["fraud"]["groups"][HOSTILE], "unscorable": 0, **changes}
    shown.summary = {"models": {"fraud": {"task": "binary", "groups": {"champion": group}}}, "events": {}}
    page = re.sub(r"<script>.*</script>", "", open_page(chromium, server.url, tmp_path, "--dump-dom"), flags=re.DOTALL)
    assert [each for each in (NO_OUTCOME, NO_ROW) if each in page] == said
    assert ("<dt>unscorable</dt>" in page) == bool(group["unscorable"])


@pytest.mark.parametrize("unscorable", [0, 5])
def test_a_terminal_counts_what_could_not_be_scored(unscorable: int) -> None:
    group = {**SUMMARY["models"]["fraud"]["groups"][HOSTILE], "unscorable": unscorable}
    console = Console(file=StringIO(), width=100)
    console.print(summary_view({"models": {"fraud": {"task": "binary", "groups": {"champion": group}}}}))
    assert isinstance(console.file, StringIO)
    assert ("unscorable" in console.file.getvalue()) == bool(unscorable)

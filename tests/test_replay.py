"""Replay gives what the core gives, exactly: pandas, numpy and scikit-learn compute the same from the same files."""

import gzip
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cramjam
import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from streamapp.cli import main
from streamapp.core.events import Prediction
from streamapp.core.settings import ModelSettings, Seconds, Settings
from streamapp.errors import ConfigError, DecodeError
from streamapp.recording import PIECE, Event, Reading, of_values, pieces, read
from streamapp.replay import replay
from streamapp.stream.codec import decode_predictions

START = 1.7e9
WINDOW, GRACE = 60.0, 5.0
SETTINGS = Settings(
    models={
        "fraud": ModelSettings(outcome_window=Seconds(WINDOW), grace=Seconds(GRACE), cycle=None, detectors=("adwin",))
    }
)


def prediction(prediction_id: str, at: float, **fields: Any) -> bytes:
    return json.dumps({"prediction_id": prediction_id, "model": "fraud", "ts": START + at, **fields}).encode()


def outcome(prediction_id: str, at: float, truth: Any, **fields: Any) -> bytes:
    return json.dumps({"prediction_id": prediction_id, "ts": START + at, "outcome": truth, **fields}).encode()


def play(predictions: list[bytes], outcomes: list[bytes], **options: Any) -> dict[str, Any]:
    pipeline = replay(of_values("predictions", predictions), of_values("outcomes", outcomes), SETTINGS, **options)
    result: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(pipeline.summary()))
    return result


def test_nothing_gives_an_empty_summary() -> None:
    assert play([], []) == {
        "models": {},
        "events": {
            "predictions": {"read": 0, "accepted": 0, "rejected": 0, "duplicate": 0},
            "outcomes": {
                "read": 0,
                "accepted": 0,
                "rejected": 0,
                "duplicate": 0,
                "late": 0,
                "unmatched": 0,
                "waiting": 0,
            },
        },
    }


def test_files_are_put_in_order_of_time() -> None:
    answers = [prediction(f"p{i}", i, prediction=i % 3 == 0) for i in range(50)]
    truths = [outcome(f"p{i}", i + 2, i % 2 == 0) for i in range(50)]
    assert play(answers[::-1], truths[7:] + truths[:7]) == play(answers, truths)


def test_the_end_is_the_largest_time_of_both_files() -> None:
    answers = [prediction("a", 0, prediction=True), prediction("b", 100, prediction=True)]
    waits = play(answers, [outcome("x", WINDOW + GRACE, True)])
    assert waits["models"]["fraud"]["groups"]["default"]["pending"] == 1
    assert waits["models"]["fraud"]["groups"]["default"]["expired"] == 1
    at_deadline = play(answers[:1], [outcome("x", WINDOW + GRACE, True)])["models"]["fraud"]["groups"]["default"]
    assert (at_deadline["pending"], at_deadline["expired"]) == (1, 0)
    beyond = play(answers[:1], [outcome("x", WINDOW + GRACE + 0.001, True)])["models"]["fraud"]["groups"]["default"]
    assert (beyond["pending"], beyond["expired"]) == (0, 1)


def test_an_outcome_at_the_time_of_its_prediction_joins() -> None:
    found = play([prediction("a", 5, prediction=True)], [outcome("a", 5, True)])
    assert found["models"]["fraud"]["groups"]["default"]["outcomes"] == 1


def test_nothing_in_a_file_is_in_the_future() -> None:
    answers = [prediction("a", 0, prediction=True), prediction("b", 1e9, prediction=True)]
    assert play(answers, [])["events"]["predictions"] == {"read": 2, "accepted": 2, "rejected": 0, "duplicate": 0}


def test_bad_lines_are_counted_and_the_first_is_named() -> None:
    answers = [b"{", prediction("a", 0, prediction=True), b'{"prediction_id": 7}', b"[]"]
    recording = of_values("predictions", answers)
    found = recording.first_bad()
    assert found is not None
    assert found[0] == 1
    pipeline = replay(recording, of_values("outcomes", []), SETTINGS)
    counts = pipeline.summary()["events"]["predictions"]
    assert counts == {"read": 4, "accepted": 1, "rejected": 3, "duplicate": 0}
    assert sum(pipeline.rejected.values()) == 3


def test_the_size_of_the_pieces_changes_no_count() -> None:
    answers = [prediction(f"p{i}", i % 97, prediction=i % 3 == 0, group=f"g{i % 2}") for i in range(300)]
    truths = [outcome(f"p{i}", (i * 7) % 150, i % 2 == 0) for i in range(300)]
    whole, small = play(answers, truths), play(answers, truths, chunk=3)
    assert small["events"] == whole["events"]
    for group, report in whole["models"]["fraud"]["groups"].items():
        cut = small["models"]["fraud"]["groups"][group]
        for key in ("predictions", "outcomes", "expired", "pending"):
            assert cut[key] == report[key]
        for name, value in report["metrics"].items():
            assert cut["metrics"][name] == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_files_are_read_plain_and_compressed(suffix: str, tmp_path: Path) -> None:
    data = prediction("a", 1, scores=0.5) + b"\r\n\n" + prediction("b", 0, scores=0.5) + b"\n"
    pack = {"jsonl": bytes, "jsonl.gz": gzip.compress, "jsonl.zst": lambda raw: bytes(cramjam.zstd.compress(raw))}
    file = tmp_path / f"predictions.{suffix}"
    file.write_bytes(pack[suffix](data))
    recording = read(str(file), "predictions")
    assert [event.prediction_id for event in recording.events if isinstance(event, Prediction)] == ["b", "a"]
    assert recording.lines.tolist() == [3, 1]


LINES = st.lists(
    st.sampled_from(
        [
            prediction("a", 5, scores=0.5),
            prediction("b", 3, prediction="cat", features={"x": 1}),
            prediction("ключ", 4, prediction=True),
            json.dumps(
                {"prediction_id": "c", "model": "fraud", "ts": "2023-11-14T22:13:29Z", "prediction": True}
            ).encode(),
            prediction("d", 1, prediction=True) + prediction("e", 2, prediction=True),
            prediction("f", 1, prediction=True) + b" " + prediction("g", 2, prediction=True),
            prediction("h", 0, prediction=True).replace(b", ", b",\n"),
            prediction("i", 0, prediction=True, features={}).replace(b'"features": {', b'"features":\n{'),
            prediction("j", 6, prediction=True) + b"  ",
            prediction("k", 2),
            prediction("l", -3, scores=1.5),
            prediction("m", 1, prediction=True, features=[1]),
            b"",
            b"  ",
            b"{",
            b"\xff",
            b'{"prediction_id": "\xff"}',
            b"[]",
        ]
    ),
    max_size=12,
)


@given(LINES, st.sampled_from([b"\n", b"\r\n"]), st.booleans(), st.sampled_from([1, 100, PIECE]))
def test_a_file_read_in_pieces_says_what_its_lines_say_one_by_one(
    lines: list[bytes], end: bytes, ended: bool, piece: int
) -> None:
    data = end.join(lines) + (end if ended else b"")
    whole = [(n, line) for n, line in enumerate(data.replace(b"\r\n", b"\n").split(b"\n"), 1) if line.strip()]
    reading = Reading("predictions")
    for part in pieces(io.BytesIO(data), piece):
        reading.add(part)
    found = reading.done()
    expected = dict(zip([n for n, _ in whole], decode_predictions([line for _, line in whole]), strict=True))
    events = {int(n): event for n, event in zip(found.lines, found.events, strict=True)}
    assert events.keys() == expected.keys()
    for n, event in events.items():
        assert said(event) == said(expected[n])
    assert np.all(found.times[1:] >= found.times[:-1])


def said(event: Event) -> bytes | str:
    return str(event) if isinstance(event, DecodeError) else msgspec.json.encode(event)


def test_a_bad_line_has_the_time_of_the_good_line_before_it() -> None:
    answers = [b"{", prediction("a", 5, prediction=True), b"[", b"]", prediction("b", 3, prediction=True), b"x"]
    assert of_values("predictions", answers).times.tolist() == [START + t for t in (3, 3, 5, 5, 5, 5)]


@pytest.mark.parametrize(
    ("name", "data"), [("a.jsonl.gz", b"no"), ("b.jsonl.zst", b"no"), ("c.parquet", b""), ("d.csv", b"")]
)
def test_files_that_cannot_be_read_are_a_mistake_of_usage(name: str, data: bytes, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=name):
        read(str(file), "predictions")


def test_a_cut_off_gzip_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(gzip.compress(prediction("a", 1) * 100)[:-9])
    with pytest.raises(ConfigError, match=r"a\.jsonl\.gz"):
        read(str(file), "predictions")


def test_the_command_prints_the_summary_and_writes_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, truths, text = tmp_path / "p.jsonl", tmp_path / "o.jsonl", tmp_path / "metrics.txt"
    answers.write_bytes(b"\n".join([prediction("a", 0, prediction=True), b"oops", prediction("b", 1, prediction=True)]))
    truths.write_bytes(b"\n".join([outcome("a", 2, True), outcome("b", 3, False)]))
    files = ["--predictions", str(answers), "--outcomes", str(truths)]
    with pytest.raises(SystemExit) as end:
        main(["replay", *files, "--json", "--metrics-out", str(text)])
    assert end.value.code == 0
    said = capsys.readouterr()
    summary = json.loads(said.out)
    assert summary["models"]["fraud"]["groups"]["default"]["metrics"]["accuracy"] == 0.5
    assert summary["events"]["predictions"]["rejected"] == 1
    assert f"{answers}: 1 events rejected (1 malformed)" in said.err
    assert f"{answers}:2: " in said.err
    assert 'streamapp_outcomes_total{group="default",model="fraud"} 2.0' in text.read_text()
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main(["replay", *files])
    assert "fraud (binary)" in capsys.readouterr().out


def test_one_file_can_be_standard_input(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    truths = tmp_path / "o.jsonl"
    truths.write_bytes(outcome("a", 2, True))
    command = [sys.executable, "-m", "streamapp", "replay", "--predictions", "-", "--outcomes", str(truths), "--json"]
    done = subprocess.run(
        command, input=prediction("a", 0, prediction=True), capture_output=True, timeout=60, check=True
    )
    assert json.loads(done.stdout)["models"]["fraud"]["groups"]["default"]["outcomes"] == 1


# The oracle: 100 000 predictions, some outcomes missing, repeated, late, early, or of nobody.


class Recorded:
    """Generated events, and the frame that they were generated from."""

    def __init__(self, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        ts = np.sort(START + rng.uniform(0, n / 100, n))
        truth = rng.random(n) < 0.3
        score = np.clip(rng.beta(2, 5, n) + 0.35 * truth, 0, 1).round(6)
        group = np.where(rng.random(n) < 0.8, "champion", "challenger")
        latency = rng.lognormal(-5, 0.7, n)
        delay = rng.exponential(10, n).clip(max=WINDOW)
        fate = rng.choice(["plain", "missing", "late", "early", "twice"], n, p=[0.93, 0.03, 0.01, 0.01, 0.02])
        delay = np.where(fate == "late", WINDOW + rng.uniform(0.1, 4, n), delay)
        delay = np.where(fate == "early", -rng.uniform(0.01, GRACE - 0.1, n), delay)
        self.frame = pd.DataFrame(
            {
                "ts": ts,
                "truth": truth,
                "score": score,
                "group": group,
                "latency": latency,
                "o_ts": ts + delay,
                "fate": fate,
            }
        )
        self.frame.index = pd.Index([f"p{i}" for i in range(n)])
        self.repeated = rng.choice(n, n // 200, replace=False)
        frame = self.frame
        self.predictions = [
            json.dumps(
                {
                    "prediction_id": name,
                    "model": "fraud",
                    "group": row.group,
                    "ts": row.ts,
                    "scores": row.score,
                    "prediction": row.score >= 0.5,
                    "latency": row.latency,
                    "version": "v1" if i < n // 2 else "v2",
                }
            ).encode()
            for i, (name, row) in enumerate(zip(frame.index, frame.itertuples(), strict=True))
        ]
        self.bad = [b"{", b'{"prediction_id": "x"}'] * 25
        given = frame[frame.fate != "missing"]
        self.outcomes = [
            json.dumps({"prediction_id": name, "ts": row.o_ts, "outcome": bool(row.truth)}).encode()
            for name, row in zip(given.index, given.itertuples(), strict=True)
        ]
        twice = frame[frame.fate == "twice"]
        self.outcomes += [
            json.dumps({"prediction_id": name, "ts": row.o_ts + 1, "outcome": not row.truth}).encode()
            for name, row in zip(twice.index, twice.itertuples(), strict=True)
        ]
        self.strangers = [
            json.dumps({"prediction_id": f"s{i}", "ts": START + i, "outcome": True}).encode() for i in range(n // 300)
        ]
        order = rng.permutation(len(self.outcomes))
        self.outcomes = [self.outcomes[i] for i in order] + self.strangers
        self.predictions += [self.predictions[i] for i in self.repeated] + self.bad


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return Recorded(100_000, seed=5)


@pytest.fixture(scope="module")
def found(recorded: Recorded) -> dict[str, Any]:
    return play(recorded.predictions, recorded.outcomes)


def joined(recorded: Recorded) -> pd.DataFrame:
    frame = recorded.frame
    rows = frame[frame.fate.isin(["plain", "early", "twice"])].copy()
    rows["resolved"] = rows[["ts", "o_ts"]].max(axis=1)
    return rows


def test_oracle_event_counts(recorded: Recorded, found: dict[str, Any]) -> None:
    n, fates = len(recorded.frame), recorded.frame.fate.value_counts()
    assert found["events"]["predictions"] == {
        "read": n + len(recorded.repeated) + len(recorded.bad),
        "accepted": n,
        "rejected": len(recorded.bad),
        "duplicate": len(recorded.repeated),
    }
    assert found["events"]["outcomes"] == {
        "read": len(recorded.outcomes),
        "accepted": len(joined(recorded)),
        "rejected": 0,
        "duplicate": fates["twice"],
        "late": fates["late"],
        "unmatched": len(recorded.strangers),
        "waiting": 0,
    }


def test_oracle_verdicts_of_each_group(recorded: Recorded, found: dict[str, Any]) -> None:
    frame = recorded.frame
    end = max(frame.ts.max(), frame[frame.fate != "missing"].o_ts.max(), frame[frame.fate == "twice"].o_ts.max() + 1)
    for name, rows in frame.groupby("group"):
        report = found["models"]["fraud"]["groups"][name]
        resolved = rows.fate.isin(["plain", "early", "twice"])
        waits = ~resolved & (rows.ts + WINDOW + GRACE >= end)
        assert report["predictions"] == len(rows)
        assert report["outcomes"] == resolved.sum()
        assert report["pending"] == waits.sum()
        assert report["expired"] == (~resolved & ~waits).sum()
        assert (report["censored"], report["lost"]) == (0, 0)


def test_oracle_metrics_of_each_group(recorded: Recorded, found: dict[str, Any]) -> None:
    for name, rows in joined(recorded).groupby("group"):
        truth, score, report = rows.truth, rows.score, found["models"]["fraud"]["groups"][name]["metrics"]
        answer = score >= 0.5
        edges = np.minimum((score * 10).astype(int), 9)
        bins = pd.DataFrame({"bin": edges, "score": score, "truth": truth}).groupby("bin")
        exact = {
            "accuracy": metrics.accuracy_score(truth, answer),
            "precision": metrics.precision_score(truth, answer),
            "recall": metrics.recall_score(truth, answer),
            "f1": metrics.f1_score(truth, answer),
            "log_loss": metrics.log_loss(truth, score),
            "brier": metrics.brier_score_loss(truth, score),
            "ece": float((bins.size() / len(rows) * (bins.score.mean() - bins.truth.mean()).abs()).sum()),
        }
        for metric, value in exact.items():
            assert report[metric] == pytest.approx(value, abs=1e-9), metric
        assert report["roc_auc"] == pytest.approx(metrics.roc_auc_score(truth, score), abs=0.002)


def test_oracle_versions_latency_and_delay(recorded: Recorded, found: dict[str, Any]) -> None:
    rows, n = joined(recorded), len(recorded.frame)
    places = pd.Series(np.arange(n), index=recorded.frame.index)[rows.index]
    rows = rows.assign(version=np.where(places < n // 2, "v1", "v2"), loss=(rows.score - rows.truth) ** 2)
    for (name, version), part in rows.groupby(["group", "version"]):
        report = found["models"]["fraud"]["groups"][name]["versions"][version]
        assert report["rows"] == len(part)
        assert report["loss"] == pytest.approx(part.loss.mean(), abs=1e-9)
        assert (report["first"], report["last"]) == (part.ts.min(), part.ts.max())
    for name, part in recorded.frame.groupby("group"):
        for q in (50, 95, 99):
            exact = np.percentile(part.latency, q)
            assert found["models"]["fraud"]["groups"][name]["latency"][f"p{q}"] == pytest.approx(exact, rel=0.02)
    for name, part in rows.groupby("group"):
        for q in (50, 95):
            exact = np.percentile((part.o_ts - part.ts).clip(lower=0), q)
            assert found["models"]["fraud"]["groups"][name]["outcome_delay"][f"p{q}"] == pytest.approx(exact, rel=0.02)


def known_before(rows: pd.DataFrame) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return, for each row, how many outcomes were known, how many of them positive, and the last of them.

    Known is an outcome from before the prediction, whose own prediction is there by the time this row is resolved.
    """
    regular, early = rows[rows.o_ts >= rows.ts].sort_values("o_ts"), rows[rows.o_ts < rows.ts]
    place = np.searchsorted(regular.o_ts.to_numpy(), rows.ts.to_numpy(), side="left")
    positive = np.concatenate([[0], np.cumsum(regular.truth)])[place]
    times = np.concatenate([[-np.inf], regular.o_ts])[place]
    last = np.concatenate([[np.nan], regular.truth.astype(float)])[place]
    count = place.copy()
    for one in early.itertuples():
        seen = ((one.o_ts < rows.ts) & (one.resolved < rows.resolved)).to_numpy()
        count += seen
        positive += seen & one.truth
        newer = seen & (one.o_ts > times)
        times = np.where(newer, one.o_ts, times)
        last = np.where(newer, float(one.truth), last)
    return count, positive, last


def test_oracle_baselines_know_only_what_was_known(recorded: Recorded, found: dict[str, Any]) -> None:
    rows = joined(recorded)
    count, positive, last = known_before(rows)
    with np.errstate(invalid="ignore"):
        prior = positive / count
    rows = rows.assign(
        loss=(rows.score - rows.truth) ** 2,
        wrong=(rows.score >= 0.5) != rows.truth,
        brier=(prior - rows.truth) ** 2,
        error=((prior >= 0.5) != rows.truth).where(count > 0),
        persistence=(last != rows.truth).where(count > 0),
    )
    for name, part in rows[count > 0].groupby("group"):
        report = found["models"]["fraud"]["groups"][name]
        baselines = report["baselines"]
        assert baselines["prior"]["rows"] == len(part)
        assert baselines["prior"]["brier"] == pytest.approx(part.brier.mean(), abs=1e-9)
        assert baselines["prior"]["error"] == pytest.approx(part.error.astype(float).mean(), abs=1e-9)
        assert baselines["persistence"]["error"] == pytest.approx(part.persistence.astype(float).mean(), abs=1e-9)
        assert report["skill"]["prior"] == pytest.approx(1 - part.loss.mean() / part.brier.mean(), abs=1e-9)


def test_oracle_replaying_again_gives_the_same(recorded: Recorded, found: dict[str, Any]) -> None:
    assert play(recorded.predictions[::-1], recorded.outcomes)["models"] == found["models"]


def test_an_estimator_that_does_not_fit_the_task_is_a_rejected_update(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models.toml").write_text(
        '[defaults]\nreference_rows = 500\nbudget = 1000\ncycle = "none"\n'
        '[defaults.retrain]\nwhen = ["drift", "degradation"]\nminimum_rows = 1\n'
        '[defaults.learner]\nmodel = "river.linear_model.PAClassifier"\n'
    )
    rows = [(f"p{i}", float(i), 1.0 if i < 3000 else 9.0) for i in range(6000)]
    answers = [prediction(name, at, prediction=1.0, features={"a": at}) for name, at, _ in rows]
    (tmp_path / "p").write_bytes(b"\n".join(answers))
    (tmp_path / "o").write_bytes(b"\n".join(outcome(name, at + 0.5, truth + at % 2) for name, at, truth in rows))
    files = ["--predictions", str(tmp_path / "p"), "--outcomes", str(tmp_path / "o")]
    with pytest.raises(SystemExit) as end:
        main(["replay", *files, "--models", str(tmp_path / "models.toml"), "--json"])
    assert not end.value.code
    model = json.loads(capsys.readouterr().out)["models"]["fraud"]
    assert [update["status"] for update in model["model_updates"]] == ["rejected"] * len(model["retrain"]) != []

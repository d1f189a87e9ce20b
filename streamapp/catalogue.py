"""Every series that a worker exposes: type, labels and meaning. The documentation and its test read this list."""

from dataclasses import dataclass
from typing import Literal

Type = Literal["counter", "gauge", "summary", "histogram"]


@dataclass(frozen=True, slots=True)
class Family:
    """Series of one name."""

    name: str
    """As it is written in a query; a counter's ends in ``_total``."""
    type: Type
    labels: tuple[str, ...]
    help: str


FAMILIES: tuple[Family, ...] = (
    Family("streamapp_events_total", "counter", ("topic", "status"), "Events read, by what became of them."),
    Family("streamapp_rejected_total", "counter", ("topic", "reason"), "Messages that could not be used, by reason."),
    Family("streamapp_predictions_total", "counter", ("model", "group"), "Predictions accepted."),
    Family("streamapp_outcomes_total", "counter", ("model", "group"), "Predictions joined with their outcome."),
    Family("streamapp_expired_total", "counter", ("model", "group"), "Predictions whose outcome did not come in time."),
    Family(
        "streamapp_prediction_latency_seconds", "histogram", ("model", "group"), "Time that the model took to answer."
    ),
    Family(
        "streamapp_outcome_delay_seconds", "histogram", ("model", "group"), "Time from a prediction to its outcome."
    ),
    Family("streamapp_loss", "summary", ("model", "group", "loss"), "Losses of joined predictions."),
    Family(
        "streamapp_baseline_loss",
        "summary",
        ("model", "group", "baseline", "loss"),
        "Losses that a baseline would have had, on the rows where it had an answer.",
    ),
    Family(
        "streamapp_score_bin_total",
        "counter",
        ("model", "group", "bin", "outcome"),
        "Joined predictions by score, in 10 equal bins, and by outcome.",
    ),
    Family(
        "streamapp_metric",
        "gauge",
        ("model", "group", "metric"),
        "A model-quality figure over the current window; what sums and averages mean depends on the metric.",
    ),
    Family(
        "streamapp_skill_ratio",
        "gauge",
        ("model", "group", "baseline"),
        "1 - loss / baseline's loss over the whole run; below 0 the baseline is better.",
    ),
    Family("streamapp_drift_score", "gauge", ("model", "group", "detector"), "A detector's statistic."),
    Family("streamapp_drift_threshold", "gauge", ("model", "group", "detector"), "What the score must reach to alarm."),
    Family(
        "streamapp_detector_state",
        "gauge",
        ("model", "group", "detector", "state"),
        "1 for the state that a detector is in, 0 for the others.",
    ),
    Family(
        "streamapp_signals_total", "counter", ("model", "group", "kind", "severity", "detector"), "Signals published."
    ),
    Family("streamapp_retrain_requests_total", "counter", ("model", "group", "reason"), "Retrain requests published."),
    Family("streamapp_model_updates_total", "counter", ("model", "group", "status"), "Answers to retrain requests."),
    Family(
        "streamapp_model_updated_timestamp_seconds",
        "gauge",
        ("model", "version"),
        "Event time of the first row that a version answered, of those that answer now.",
    ),
    Family("streamapp_model_info", "gauge", ("model", "task", "team"), "1 for each model watched."),
    Family("streamapp_window_samples", "gauge", ("model", "group"), "Rows in the current window."),
    Family(
        "streamapp_updated_timestamp_seconds",
        "gauge",
        ("model", "group"),
        "Log time of the newest outcome or verdict taken.",
    ),
    Family("streamapp_latency_slo_seconds", "gauge", ("model",), "Configured objective for the latency."),
    Family(
        "streamapp_retrain_deadline_timestamp_seconds",
        "gauge",
        ("model",),
        "Log time after which the open retrain request has failed; the earliest where there are several.",
    ),
    Family(
        "streamapp_learner_progress_timestamp_seconds",
        "gauge",
        ("model",),
        "Log time of the newest row that the learner has taken in.",
    ),
    Family("streamapp_pending_predictions", "gauge", ("partition",), "Predictions that wait for their outcome."),
    Family("streamapp_log_time_seconds", "gauge", ("partition",), "Log time up to which both inputs have been read."),
    Family("streamapp_consumer_lag_records", "gauge", ("topic", "partition"), "Offsets between position and end."),
    Family("streamapp_checkpoint_age_seconds", "gauge", ("role", "partition"), "Time since the last commit."),
    Family("streamapp_checkpoint_bytes", "gauge", ("role", "partition"), "Bytes of state in the last commit."),
    Family(
        "streamapp_recoveries_total",
        "counter",
        ("role", "reason"),
        "Tasks taken over, fences, aborted commits, other ends of a process, and parked tasks.",
    ),
    Family(
        "streamapp_restore_seconds",
        "gauge",
        ("role", "partition"),
        "Time that taking over and restoring the task took.",
    ),
    Family(
        "streamapp_reread_records_total",
        "counter",
        ("role", "topic"),
        "Records that had been applied before and were read again to restore a task.",
    ),
    Family("streamapp_parked", "gauge", ("role", "partition", "reason"), "1 for each task that is parked."),
    Family(
        "streamapp_label_overflow_total",
        "counter",
        ("label",),
        "Label values beyond the cap and predictions of models or groups beyond the most: they became other."
        " Under feature: values that a learner left out, since it knew as many names as it takes.",
    ),
)
"""Series that exist today."""

RECOVERIES: dict[str, str] = {
    "restored": "A task was taken over and goes on from its checkpoint.",
    "began": "A task was taken over that had never committed: it begins at the start of its inputs.",
    "fenced": "Another worker, or a command, had taken the task over; the process ended, and nothing it sent is seen.",
    "aborted": "A transaction failed or was not answered in time; the process ended and threw its memory away.",
    "failed": "An error that nobody expected ended the process.",
    "stuck": "The process ended itself since nothing moved any more.",
    "killed": "The process was ended by a signal from outside.",
    "mended": "Somebody changed the checkpoint of a parked task; the process ended to begin from it.",
    "parked_checkpoint": "A checkpoint was refused: damaged, of another version, or of other logs than there are now.",
    "parked_identity": "A topic was made anew while its task was running.",
    "parked_position": "The log does not hold the task's position.",
    "parked_timestamps": "Records carry their producers' timestamps.",
    "parked_input": "A batch cannot be read.",
    "parked_commit": "A value is too large to be committed.",
    "parked_artifact": "A learned model is gone or not what was stored.",
    "parked_defect": "A record could not be applied, three times in a row.",
    "artifact_refused": "A learned model was left out: its bytes ask for what is not allowed.",
}
"""Reasons of ``streamapp_recoveries_total``. Those that end a process are kept by whoever starts the next one."""

"""What an operator sets is read as the contract says, and what is wrong is named."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamapp.config import VARIABLES, ProcessConfig, roles, unknown_variables
from streamapp.core.drift import DETECTORS
from streamapp.core.settings import Assume, ModelSettings
from streamapp.errors import ConfigError
from streamapp.modelsfile import load_models, notes, parse_models, seconds

HUGE = "9" * 400
CONTRACT = {
    "STREAMAPP_BROKER",
    "STREAMAPP_GROUP_ID",
    "STREAMAPP_TOPIC_PREFIX",
    "STREAMAPP_PARTITIONS",
    "STREAMAPP_SCORED_PARTITIONS",
    "STREAMAPP_MODELS",
    "STREAMAPP_DATA",
    "STREAMAPP_ARTIFACTS",
    "STREAMAPP_COMMIT_INTERVAL",
    "STREAMAPP_WEB_PORT",
    "STREAMAPP_SESSION_TIMEOUT",
    "STREAMAPP_LOG_LEVEL",
    "STREAMAPP_LOG_FORMAT",
    "STREAMAPP_SECURITY_PROTOCOL",
    "STREAMAPP_SASL_MECHANISM",
    "STREAMAPP_SASL_USERNAME",
    "STREAMAPP_SASL_PASSWORD",
    "STREAMAPP_CA_FILE",
}


def test_an_empty_environment_gives_the_documented_defaults() -> None:
    config = ProcessConfig.from_environ({})
    assert config == ProcessConfig()
    assert (config.broker, config.group_id, config.topic_prefix) == ("localhost:9092", "streamapp", "streamapp.")
    assert (config.partitions, config.scored_partitions) == (8, 4)
    assert (config.commit_interval, config.web_port) == (0.25, 6066)


def test_the_list_of_variables_holds_every_name_of_the_contract_once() -> None:
    names = [variable.name for variable in VARIABLES]
    assert set(names) >= CONTRACT
    assert len(names) == len(set(names))


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable.name)
def test_the_listed_default_is_the_one_in_effect(variable) -> None:
    listed = variable.parse(variable.default) if variable.default else None
    found = getattr(ProcessConfig(), variable.attribute)
    assert (str(found) if isinstance(found, Path) else found or None) == (listed or None)


def test_every_variable_reaches_its_attribute(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("")
    environ = {
        "STREAMAPP_BROKER": "a:1, b:2",
        "STREAMAPP_GROUP_ID": "g",
        "STREAMAPP_TOPIC_PREFIX": "",
        "STREAMAPP_PARTITIONS": "3",
        "STREAMAPP_SCORED_PARTITIONS": "2",
        "STREAMAPP_MODELS": "m.toml",
        "STREAMAPP_DATA": "/d",
        "STREAMAPP_ARTIFACTS": "s3://bucket/x",
        "STREAMAPP_COMMIT_INTERVAL": "500ms",
        "STREAMAPP_SESSION_TIMEOUT": "6",
        "STREAMAPP_TRANSACTIONS": "no",
        "STREAMAPP_ALLOW_LOST": "TRUE",
        "STREAMAPP_WEB_HOST": "0.0.0.0",
        "STREAMAPP_WEB_PORT": "0",
        "STREAMAPP_LOG_LEVEL": "debug",
        "STREAMAPP_LOG_FORMAT": "json",
        "STREAMAPP_SECURITY_PROTOCOL": "sasl_plaintext",
        "STREAMAPP_SASL_MECHANISM": "scram-sha-512",
        "STREAMAPP_SASL_USERNAME": "me",
        "STREAMAPP_SASL_PASSWORD": "pw",
        "STREAMAPP_CA_FILE": str(ca),
    }
    assert set(environ) == {variable.name for variable in VARIABLES}
    assert ProcessConfig.from_environ(environ) == ProcessConfig(
        broker="a:1,b:2",
        group_id="g",
        topic_prefix="",
        partitions=3,
        scored_partitions=2,
        models=Path("m.toml"),
        data=Path("/d"),
        artifacts="s3://bucket/x",
        commit_interval=0.5,
        session_timeout=6.0,
        transactions=False,
        allow_lost=True,
        web_host="0.0.0.0",
        web_port=0,
        log_level="DEBUG",
        log_format="json",
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="SCRAM-SHA-512",
        sasl_username="me",
        sasl_password="pw",
        ca_file=ca,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STREAMAPP_BROKER", "localhost"),
        ("STREAMAPP_BROKER", "localhost:70000"),
        ("STREAMAPP_BROKER", "a:1,,b:2"),
        ("STREAMAPP_TOPIC_PREFIX", "a b"),
        ("STREAMAPP_PARTITIONS", "0"),
        ("STREAMAPP_PARTITIONS", "many"),
        ("STREAMAPP_COMMIT_INTERVAL", "soon"),
        ("STREAMAPP_COMMIT_INTERVAL", "0"),
        ("STREAMAPP_WEB_PORT", "-1"),
        ("STREAMAPP_LOG_LEVEL", "loud"),
        ("STREAMAPP_LOG_FORMAT", "xml"),
        ("STREAMAPP_TRANSACTIONS", "maybe"),
        ("STREAMAPP_SECURITY_PROTOCOL", "TLS"),
    ],
)
def test_a_bad_variable_is_named_with_what_was_found(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as error:
        ProcessConfig.from_environ({name: value})
    assert str(error.value).startswith(f"{name} must be ")
    assert repr(value) in str(error.value)


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("hunter2\n")
    login = {"STREAMAPP_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "STREAMAPP_SASL_USERNAME": "me"}
    config = ProcessConfig.from_environ({**login, "STREAMAPP_SASL_PASSWORD_FILE": str(file)})
    assert config.sasl_password == "hunter2"
    assert "hunter2" not in repr(config) + str(config)
    assert config.security()["sasl_plain_password"] == "hunter2"


def test_sasl_without_a_password_is_refused() -> None:
    with pytest.raises(ConfigError, match="STREAMAPP_SASL_PASSWORD"):
        ProcessConfig.from_environ({"STREAMAPP_SECURITY_PROTOCOL": "SASL_SSL", "STREAMAPP_SASL_USERNAME": "me"})


def test_a_password_given_twice_or_in_a_missing_file_is_refused(tmp_path: Path) -> None:
    missing = {"STREAMAPP_SASL_PASSWORD_FILE": str(tmp_path / "none")}
    with pytest.raises(ConfigError, match="cannot be read"):
        ProcessConfig.from_environ(missing)
    with pytest.raises(ConfigError, match="both set"):
        ProcessConfig.from_environ({**missing, "STREAMAPP_SASL_PASSWORD": "x"})


def test_certificates_that_are_none_are_named(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    with pytest.raises(ConfigError, match="STREAMAPP_CA_FILE must be the path of a file"):
        ProcessConfig.from_environ({"STREAMAPP_CA_FILE": str(ca)})
    ca.write_text("not a certificate")
    config = ProcessConfig.from_environ({"STREAMAPP_CA_FILE": str(ca), "STREAMAPP_SECURITY_PROTOCOL": "SSL"})
    with pytest.raises(ConfigError, match="no usable PEM certificates"):
        config.security()


def test_misspelt_variables_are_said_and_others_are_left_alone() -> None:
    environ = {
        "STREAMAPP_BROKERS": "x",
        "STREAMAPP_SERVICE_HOST": "10.0.0.1",
        "STREAMAPP_TEST_BROKER": "x",
        "HOME": "/",
    }
    assert unknown_variables(environ) == ["STREAMAPP_BROKERS is not a setting: did you mean STREAMAPP_BROKER?"]


def test_roles_come_in_the_order_of_the_stream() -> None:
    assert roles("learner, joiner") == ("joiner", "learner")
    for wrong in ("join", ""):
        with pytest.raises(ConfigError, match="joiner, monitor, learner"):
            roles(wrong)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30m", 1800), ("1d", 86400), ("200ms", 0.2), ("1h30m", 5400), ("1h 30m", 5400), ("2.5s", 2.5), ("0s", 0), (7, 7)],
)
def test_durations_are_read(text: object, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@given(st.one_of(st.text(max_size=12), st.floats(), st.booleans(), st.none()))
@example(10**400)
@example(f"{HUGE}d")
def test_anything_else_is_no_duration_rather_than_a_crash(value: object) -> None:
    try:
        found = seconds(value)
    except ValueError:
        return
    assert 0 <= found < float("inf")


def test_a_whole_file_is_read() -> None:
    settings = parse_models(
        """
        [defaults]
        window_rows = 10
        [models.fraud]
        task = "binary"
        positive = "bad"
        groups = { champion = 0.9, challenger = 0.1 }
        outcome_window = "30m"
        cycle = "none"
        on_expiry = { assume = false }
        baselines = ["prior", { seasonal = 24 }, { constant = 0, name = "human" }]
        latency_slo = "200ms"
        [models.fraud.retrain]
        cooldown = "1h"
        [models.fraud.learner]
        warmup = 5
        """
    )
    fraud = settings.of("fraud")
    assert (fraud.task, fraud.positive, fraud.cycle, fraud.latency_slo) == ("binary", "bad", None, 0.2)
    assert fraud.on_expiry == Assume(assume=False)
    assert fraud.baselines == ("prior", {"seasonal": 24}, {"constant": 0, "name": "human"})
    assert (fraud.retrain.cooldown, fraud.learner.warmup, fraud.window_rows) == (3600, 5, 1000)
    assert settings.of("another") == ModelSettings(window_rows=10)


def test_an_empty_file_gives_the_defaults() -> None:
    assert parse_models("").of("any") == ModelSettings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[models.a", "m.toml: is not TOML: Expected ']' at the end of a table declaration (at end of document)"),
        ("x = 1\ny = = 2", "(at line 2, column 5)"),
        ("[model.a]", "'model' is not a setting: did you mean models?"),
        ("models = 3", "models: expected tables such as [models.fraud], got a whole number"),
        ("[models]\na = 3", "models.a: expected a table, got a whole number"),
        ("[models.a]\nbudgets = 3", "models.a: 'budgets' is not a setting: did you mean budget?"),
        ('[models.a]\nbudget = "x"', "models.a.budget: expected a whole number, got 'x'"),
        ("[models.a]\nbudget = 0", "models.a.budget: expected a number 1 or more, got 0"),
        ("[models.a.learner]\nwarm = 1", "models.a.learner: 'warm' is not a setting: did you mean warmup?"),
        ("[models.a.learner]\nwarmup = true", "models.a.learner.warmup: expected a whole number, got True"),
        ('[models."a b".groups]\nx = "a"', "models.\"a b\".groups.x: expected a number, got 'a'"),
        (
            "[models.a]\ngroups = { b = 0.9, c = 0.2 }",
            "models.a.groups: expected shares that sum to at most 1, got 1.1",
        ),
        ("[models.a]\ngroups = { b = 0 }", "models.a.groups.b: expected a share above 0 and at most 1, got 0"),
        ('[models.a]\ntask = "bin"', "models.a.task: expected binary, multiclass or regression, got 'bin'"),
        (
            '[models.a]\ntask = "regression"\nloss = "brier"',
            "models.a.loss: expected one of absolute, squared for task",
        ),
        ('[defaults]\noutcome_window = "soon"', "defaults.outcome_window: expected a duration such as"),
        ("[models.a.retrain]\ncooldown = -1", "models.a.retrain.cooldown: expected a duration such as"),
        ('[models.a.retrain]\nwhen = ["x"]', 'models.a.retrain.when[0]: expected "drift" or "degradation", got \'x\''),
        ('[models.a]\non_expiry = "keep"', "models.a.on_expiry: expected \"drop\" or { assume = … }, got 'keep'"),
        (
            "[models.a]\non_expiry = { assumed = false }",
            "models.a.on_expiry: 'assumed' is not a setting: did you mean assume?",
        ),
        (
            "[models.a]\non_expiry = { assume = true, x = 1 }",
            "models.a.on_expiry: 'x' is not a setting: expected one of assume",
        ),
        (f"[models.a]\noutcome_window = {HUGE}", "models.a.outcome_window: expected a whole number of at most 64 bits"),
        (f'[models.a]\noutcome_window = "{HUGE}d"', "models.a.outcome_window: expected a duration such as"),
        (f"[models.a]\nbudget = -{HUGE}", "models.a.budget: expected a whole number of at most 64 bits, got -999"),
        (f"[models.a]\nbudget = {HUGE * 20}", "m.toml: is not TOML: "),
        (
            f'[models.a]\ntask = "regression"\nbaselines = [{{ constant = {HUGE} }}]',
            "models.a.baselines[0].constant: expected a whole number of at most 64 bits",
        ),
        ("[models.a]\nbaselines = [3]", "models.a.baselines[0]: expected a string or a table, got 3"),
        (
            '[models.a]\nbaselines = ["priors"]',
            "models.a.baselines[0]: 'priors' is not a baseline: did you mean prior?",
        ),
        ('[models.a]\nbaselines = ["seasonal"]', "models.a.baselines[0]: seasonal needs a value"),
        ("[models.a]\nbaselines = [{ seasonal = 0 }]", "baselines[0].seasonal: expected a whole number of 1 or more"),
        ("[models.a]\nbaselines = [{ m = 0 }]", "models.a.baselines[0]: expected { seasonal = 24 } or"),
        ('[models.a]\ntask = "binary"\nbaselines = ["mean"]', "models.a.baselines: expected one of persistence, prior"),
        ('[models.a]\nbaselines = ["prior"]', "name the task, or leave the baseline out"),
        ('[models.a]\ndetectors = ["adwni"]', "models.a.detectors[0]: "),
        (
            '[models.a.learner]\nmodel = "os.system"',
            "models.a.learner.model must be an estimator like river.linear_model.PAClassifier, got 'os.system'",
        ),
        (
            '[models.a.learner]\nmodel = "river.linear_model.Nope"',
            "models.a.learner.model: River has no river.linear_model.Nope",
        ),
        (
            '[models.a.learner]\nmodel = "river.drift.ADWIN"',
            "models.a.learner.model: river.drift.ADWIN is no estimator",
        ),
        (
            '[models.a.learner]\nmodel = "river.tree.HoeffdingTreeClassifier"\nparameters = { depth = 3 }',
            "models.a.learner.parameters: river.tree.HoeffdingTreeClassifier: ",
        ),
        ('[models.a]\ndetectors = [{ name = "adwin", deltas = 1 }]', "models.a.detectors[0]: "),
        (
            '[models.a]\ndetectors = [{ name = "fhddm", sliding_window_size = 0 }]',
            "models.a.detectors[0]: fhddm: float division by zero",
        ),
        ('[models.a.features]\ndrop = ["x"]', "models.a.features: keep, drop and hash are not available yet"),
        ("[models.a.comparison]\nalpah = 1", "models.a.comparison: 'alpah' is not a setting: did you mean alpha?"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_models(text, "m.toml")
    assert str(error.value).startswith("m.toml: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    "parameters",
    [
        'name = "adwin", clock = 0',
        'name = "adwin", max_buckets = 0',
        'name = "hddma", drift_confidence = 0',
        'name = "pagehinkley", threshold = "a"',
        'name = "ddm", warm_start = "x"',
    ],
)
def test_detectors_that_fail_on_their_first_rows_are_refused(parameters: str) -> None:
    name = parameters.split('"')[1]
    with pytest.raises(ConfigError) as error:
        parse_models(f"[models.a]\ndetectors = [{{ {parameters} }}]", "m.toml")
    assert str(error.value).startswith(f"m.toml: models.a.detectors[0]: {name}: fails with these parameters: ")


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_passes_with_the_parameters_it_has_by_itself(name: str) -> None:
    assert parse_models(f'[models.a]\ndetectors = ["{name}"]').of("a").detectors == (name,)


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_models(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_models(tmp_path / "bad.toml")


def test_a_byte_order_mark_before_the_text_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_bytes(b"\xef\xbb\xbf[models.a]\nbudget = 5\n")
    assert load_models(tmp_path / "models.toml").of("a").budget == 5


def test_settings_that_wait_for_their_feature_are_said() -> None:
    settings = parse_models(
        '[models.a]\nreference = "r.parquet"\ncorrections = "1h"\n[models.a.comparison]\nalpha = 0.05\n'
        "[defaults.review]\nbelow = 0.6\n"
    )
    assert [line.split(":")[0] for line in notes(settings)] == [
        "models.a.comparison",
        "models.a.reference",
        "models.a.corrections",
        "defaults.review",
    ]


def test_the_process_reads_its_models_file(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text("[models.a]\nbudget = 5\n")
    assert ProcessConfig.from_environ({"STREAMAPP_MODELS": str(file)}).settings().of("a").budget == 5
    assert ProcessConfig.from_environ({}).settings().of("a") == ModelSettings()

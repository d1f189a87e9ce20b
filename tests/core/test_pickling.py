"""What comes back through the allow-list, and what does not."""

import collections
import contextlib
import copyreg
import datetime
import functools
import operator
import os
import pickle
import random
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import (
    datasets,
    drift,
    ensemble,
    forest,
    linear_model,
    multiclass,
    naive_bayes,
    neighbors,
    rules,
    stats,
    tree,
)
from river.drift import binary
from river.utils import math as river_math

from streamapp.core import pickling
from streamapp.core.learning.learned import LearnedModel
from streamapp.core.settings import ModelSettings
from streamapp.errors import CheckpointError


def stored(pickled: bytes, river: str = pickling.RIVER) -> bytes:
    """An envelope of ours around somebody's pickle."""
    return b"SAPK\x01" + msgspec.msgpack.encode({"river": river, "python": "3.11", "pickle": pickled})


class Call:
    """Pickles as a call of *func*."""

    def __init__(self, func: Any, *args: Any, state: Any = None) -> None:
        self.parts = (func, args) if state is None else (func, args, state)

    def __reduce__(self) -> Any:
        return self.parts


CLASSIFIERS = [
    linear_model.LogisticRegression(),
    linear_model.PAClassifier(),
    linear_model.SoftmaxRegression(),
    naive_bayes.GaussianNB(),
    neighbors.KNNClassifier(),
    tree.HoeffdingTreeClassifier(grace_period=20),
    tree.HoeffdingAdaptiveTreeClassifier(grace_period=20, seed=1),
    forest.ARFClassifier(n_models=2, seed=1),
    forest.AMFClassifier(n_estimators=2, seed=1),
    ensemble.LeveragingBaggingClassifier(linear_model.LogisticRegression(), n_models=2, seed=1),
    multiclass.OneVsRestClassifier(linear_model.LogisticRegression()),
]
REGRESSORS = [
    linear_model.LinearRegression(),
    linear_model.BayesianLinearRegression(),
    tree.HoeffdingTreeRegressor(grace_period=20),
    forest.ARFRegressor(n_models=2, seed=1),
    rules.AMRules(n_min=20),
]


@pytest.mark.parametrize("model", CLASSIFIERS, ids=lambda model: type(model).__name__)
def test_restored_classifier_learns_and_answers_the_same(model: Any) -> None:
    rows = list(datasets.Phishing().take(300))
    for x, y in rows[:200]:
        model.learn_one(x, y)
    again: Any = pickling.loads(pickling.dumps(model))
    for x, y in rows[200:]:
        assert again.predict_proba_one(x) == model.predict_proba_one(x)
        again.learn_one(x, y)
        model.learn_one(x, y)


@pytest.mark.parametrize("model", REGRESSORS, ids=lambda model: type(model).__name__)
def test_restored_regressor_learns_and_answers_the_same(model: Any) -> None:
    rows = list(datasets.TrumpApproval().take(300))
    for x, y in rows[:200]:
        model.learn_one(x, y)
    again: Any = pickling.loads(pickling.dumps(model))
    for x, y in rows[200:]:
        assert again.predict_one(x) == model.predict_one(x)
        again.learn_one(x, y)
        model.learn_one(x, y)


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        frozenset("a"),
        1j,
        bytearray(b"x"),
        slice(1, 2),
        range(3),
        collections.deque([1], maxlen=3),
        collections.Counter("aab"),
        collections.OrderedDict(a=1),
        collections.defaultdict(int, a=1),
        datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
        datetime.timedelta(1),
        np.float64(1.5),
    ],
)
def test_containers_come_back(value: object) -> None:
    again = pickling.loads(pickling.dumps(value))
    assert again == value
    assert type(again) is type(value)


@pytest.mark.parametrize("dtype", ["f8", "f4", "i8", "u1", "b1", "O"])
def test_arrays_come_back(dtype: str) -> None:
    array = np.array([[1, 0, 1], [0, 1, 1]], dtype)
    again: Any = pickling.loads(pickling.dumps(array))
    assert again.dtype == array.dtype
    assert again.tolist() == array.tolist()


@pytest.mark.parametrize("make", [random.Random, np.random.RandomState])
def test_random_generators_go_on_where_they_were(make: Any) -> None:
    generator = make(3)
    generator.uniform(0.0, 1.0)
    again: Any = pickling.loads(pickling.dumps(generator))
    assert [again.uniform(0.0, 1.0) for _ in range(5)] == [generator.uniform(0.0, 1.0) for _ in range(5)]


def _np_exec() -> Any:
    from numpy.testing import _private

    return _private.utils.runstring


NAMED = [
    (Call(os.system, "true"), "posix.system"),
    (Call(eval, "1"), "builtins.eval"),
    (Call(exec, "1"), "builtins.exec"),
    (Call(__import__, "os"), "builtins.__import__"),
    (Call(open, "/etc/passwd"), "open"),
    (Call(getattr, linear_model.LogisticRegression(), "learn_one"), "'learn_one'"),
    (Call(getattr, [], "__class__"), "'__class__'"),
    (Call(getattr, drift.PageHinkley, "__init__"), "'__init__'"),
    (Call(setattr, drift.PageHinkley, "update", 1), "builtins.setattr"),
    (Call(functools.partial, os.system, "true"), "posix.system"),
    (Call(functools.partial, print), "builtins.print"),
    (Call(operator.attrgetter("system"), 1), "operator.attrgetter"),
    (Call(operator.methodcaller("learn_one"), 1), "operator.methodcaller"),
    (Call(np.load, "/etc/passwd"), "numpy.load"),
    (Call(np.fromfile, "/etc/passwd"), "numpy.fromfile"),
    (Call(_np_exec(), "1", {}), "runstring"),
    (Call(river_math.minkowski_distance, {}, {}, 2), "call of river.utils.math.minkowski_distance"),
    (Call(river_math.sigmoid, 1), "river.utils.math.sigmoid"),
    (Call(datasets.Phishing), "river.datasets.phishing.Phishing"),
    (Call(linear_model.LogisticRegression), "call of river.linear_model.log_reg.LogisticRegression"),
    (Call(copyreg._reconstructor, object, object, None), "copyreg._reconstructor"),
    (Call(type, "x", (), {}), "builtins.type"),
    (Call(object), "builtins.object"),
    (Call(np.dtype, [("a", "f8")]), "numpy.dtype"),
    (Call(np.dtype, "V100000"), "numpy.dtype"),
    (Call(pickle.loads, b"N."), "_pickle.loads"),
]


@pytest.mark.parametrize(("hostile", "said"), NAMED, ids=[said for _, said in NAMED])
def test_what_is_not_allowed_is_refused_by_name(hostile: Call, said: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        pickling.loads(stored(pickle.dumps(hostile, protocol=4)))
    assert said in str(caught.value)
    assert "not allowed" in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "river.stream.cache\nos",
        "river.drift.adwin\nADWIN.__init__",
        "river.drift.adwin\nADWIN.__init__.__globals__",
        "river.drift.kswin\nrandom",
        "river.drift.kswin\ncollections.deque",
        "river.drift\nADWIN",
        "river.utils.pretty\nprint_table",
        "riverbed.x\nY",
        "streamapp.errors\nCheckpointError",
        "numpy\nndarray.tofile",
        "builtins\nset.__class__",
    ],
)
def test_other_ways_to_a_name_are_refused(name: str) -> None:
    module, _, attribute = name.partition("\n")
    pickled = b"\x80\x04" + b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, attribute))
    with pytest.raises(CheckpointError, match="not allowed"):
        pickling.loads(stored(pickled + b"\x93."))


@pytest.mark.parametrize(
    "code", [b"cos\nsystem\n.", b"(ios\nsystem\n.", b"(cbuiltins\nset\no.", b"\x82\x01.", b"Px\n."]
)
def test_old_protocols_are_no_way_around(code: bytes) -> None:
    with pytest.raises(CheckpointError, match="not allowed"):
        pickling.loads(stored(code))


def test_a_class_is_never_changed() -> None:
    before = drift.ADWIN.update
    # ADWIN, (None, {"update": set}), BUILD
    pickled = b"\x80\x04criver.drift.adwin\nADWIN\nN}X\x06\x00\x00\x00updatecbuiltins\nset\ns\x86b."
    with pytest.raises(CheckpointError, match=r"a change to river\.drift\.adwin\.ADWIN"):
        pickling.loads(stored(pickled))
    assert drift.ADWIN.update is before


def test_special_attributes_are_not_set() -> None:
    pickled = b"\x80\x04criver.drift.adwin\nADWIN\n)\x81}X\x0c\x00\x00\x00__deepcopy__cbuiltins\nset\nsb."
    with pytest.raises(CheckpointError, match="special attributes of ADWIN"):
        pickling.loads(stored(pickled))


def test_partial_keeps_the_function_that_was_checked() -> None:
    good = functools.partial(stats.EWMean, 0.3)
    again: Any = pickling.loads(pickling.dumps(good))
    assert (again.func, again.args) == (stats.EWMean, (0.3,))
    method = drift.PageHinkley()._test_drift
    with pytest.raises(CheckpointError, match="changes its function"):
        pickling.loads(stored(pickle.dumps(Call(functools.partial, set, state=(method, (), {}, None)), protocol=4)))
    with pytest.raises(CheckpointError, match="partial of"):
        pickling.loads(stored(pickle.dumps(functools.partial(method), protocol=4)))


def test_learned_model_comes_back() -> None:
    model = LearnedModel("binary", ModelSettings(), seed=1)
    for x, y in datasets.Phishing().take(100):
        model.learn(x, y)
    again = LearnedModel.load(pickling.dumps(model))
    assert [again.predict(x) for x, _ in datasets.Phishing()] == [model.predict(x) for x, _ in datasets.Phishing()]
    with pytest.raises(CheckpointError, match="expected a learned model, got ADWIN"):
        LearnedModel.load(pickling.dumps(drift.ADWIN()))


def test_another_river_is_refused_by_both_versions_unless_only_its_patch_differs() -> None:
    pickled = pickle.dumps(binary.DDM(), protocol=4)
    with pytest.raises(CheckpointError, match=rf"made by River 0\.19\.2, this is River {pickling.RIVER}"):
        pickling.loads(stored(pickled, river="0.19.2"))
    major, minor, _ = pickling.RIVER.split(".", 2)
    assert isinstance(pickling.loads(stored(pickled, river=f"{major}.{minor}.99")), binary.DDM)


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"", "begin with"), (b"PK\x03\x04xx", "begin with"), (b"SAPK\x02xx", "format 2"), (b"SAPK\x01\xc1", "read")],
)
def test_bytes_that_are_not_ours_are_refused(data: bytes, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        pickling.loads(data)


@given(st.data())
def test_damaged_bytes_raise_nothing_else(data: st.DataObject) -> None:
    good = bytearray(pickling.dumps(drift.PageHinkley()))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CheckpointError):
        pickling.loads(bytes(good))

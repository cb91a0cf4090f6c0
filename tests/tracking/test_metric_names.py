"""Names of metrics and parameters: MLflow takes them whatever classes are called, and two classes stay two."""

from mlflow.utils.validation import _validate_metric_name, _validate_param_name

from medfl.runs.records import RunRecords
from medfl.tracking.metric_names import measured_values, plain, site_final
from medfl.tracking.run_metadata import parameters
from tests.odd_names import hidden, odd_names


def test_plain_names_are_left_alone():
    for name in ("lung_aca", "normal mucosa", "G1-G2", "v1.5", "malignant"):
        assert plain(name) == name
    assert plain("HER2 [3+]").startswith("HER2 _3__-")


def test_odd_names_are_taken_and_stay_different():
    names = [*odd_names(300), "норма", "кошка", "x" * 299, "a/b", "a?b", ""]
    assert len({plain(name) for name in names}) == len(set(names))
    figures = dict.fromkeys(names, 0.5)
    keys = [*measured_values("monitoring/", {"balanced_accuracy": 0.5, "auroc_per_class": figures})]
    assert len(keys) == len(figures) + 1
    point = {"sensitivity": 0.5, "specificity": 0.5, "sensitivity_ci": [0.0, 1.0], "specificity_ci": None}
    keys += [*site_final({"operating": dict.fromkeys(names, point)}, None)]
    for key in keys:
        _validate_metric_name(key)
        assert len(key) <= 250


def test_odd_keys_and_values_are_parameters(tmp_path):
    names = odd_names(100)
    pipeline = {"model": {"args": {name: name for name in names}}, "task": {"classes": names}, "sites": {}}
    shown = parameters(RunRecords(tmp_path, pipeline, (), None))
    assert len(shown) > len(names)
    for key, value in shown.items():
        _validate_param_name(key)
        assert not hidden(value)

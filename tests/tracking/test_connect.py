"""Addresses of tracking servers: which one counts, and that no password is kept or told."""

import json

import pytest
import yaml

from medfl.config import Tracking
from medfl.pipeline.load_pipeline import dump_pipeline, load_pipeline
from medfl.tracking.connect import brief, resolve_uri, shown
from medfl.tracking.sync_state import State, TrackingServer
from tests.tiny import write_tiny

SECRET = "hunter2"
WITH = f"postgresql://medfl:{SECRET}@db.example/mlflow"
WITHOUT = "postgresql://db.example/mlflow"


@pytest.mark.parametrize(
    ("uri", "bare"),
    [
        (WITH, WITHOUT),
        (f"https://me:p@ss/{SECRET}@example.org/x", "https://example.org/x"),
        (f"mysql+pymysql://db/x?password={SECRET}&ssl=1", "mysql+pymysql://db/x?password=&ssl=1"),
        ("http://localhost:5000", "http://localhost:5000"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
    ],
)
def test_what_is_told_of_an_address(uri, bare):
    assert shown(uri) == bare
    if SECRET in uri:
        assert SECRET not in brief(ValueError(f"could not connect to {uri} at all"))


def test_no_password_in_a_run_folder(tmp_path):
    pipeline = load_pipeline(write_tiny(tmp_path, tracking={"uri": WITH}))
    assert pipeline.tracking.uri == WITH
    assert yaml.safe_load(dump_pipeline(pipeline))["tracking"]["uri"] == WITHOUT
    raw = {"run_uuid": "a" * 32, "current": WITH, "servers": {WITH: {"sites": {}, "federation": {}}}}
    (tmp_path / "tracking.json").write_text(json.dumps(raw))  # as version 0.1 wrote it
    state = State.load(tmp_path)
    assert (state.current, state.servers) == (WITHOUT, {WITHOUT: TrackingServer()})
    state.save()
    assert SECRET not in (tmp_path / "tracking.json").read_text()


def test_the_environment_says_the_password_of_an_address_that_is_kept_without(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", WITH)
    assert resolve_uri(Tracking(uri=WITHOUT)) == WITH
    assert resolve_uri(Tracking(), WITHOUT) == WITH
    assert resolve_uri(Tracking(uri="postgresql://other/mlflow")) == "postgresql://other/mlflow"

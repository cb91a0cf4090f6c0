"""MLflow's database appears whole, and one that a first start left half made is made anew."""

import os
import sqlite3
import time
from pathlib import Path

import pytest

from medfl.errors import MedflError
from medfl.tracking.local_database import prepare_database
from tests.runfolders import database


@pytest.fixture
def making(monkeypatch):
    """What MLflow makes, without the seconds it takes."""
    from mlflow.store.tracking import sqlalchemy_store

    class Store:
        def __init__(self, uri: str, artifacts: str) -> None:
            with sqlite3.connect(uri.removeprefix("sqlite:///")) as made:
                made.execute("CREATE TABLE experiments (name)")
                made.execute("INSERT INTO experiments VALUES ('Default')")
            made.close()
            self.engine = self

        def dispose(self) -> None:
            pass

    monkeypatch.setattr(sqlalchemy_store, "SqlAlchemyStore", Store)


def write(file: Path, *statements: str, age: float = 3600) -> None:
    database = sqlite3.connect(file)
    with database:
        for statement in statements:
            database.execute(statement)
    database.close()
    os.utime(file, (time.time() - age,) * 2)


def experiments(file: Path) -> list[str]:
    database = sqlite3.connect(file)
    names = [name for (name,) in database.execute("SELECT name FROM experiments")]
    database.close()
    return names


@pytest.mark.parametrize(
    "statements",
    [
        (),
        ("CREATE TABLE alembic_version (version_num)",),
        ("CREATE TABLE experiments (name)", "CREATE TABLE runs (x)", "CREATE TABLE alembic_version (version_num)"),
    ],
)
def test_a_half_made_database_is_made_anew_and_kept_aside(tmp_path, making, statements):
    file = tmp_path / "mlflow.db"
    write(file, *statements)
    prepare_database(file, None)
    assert experiments(file) == ["Default"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.unfinished"]


def test_a_whole_one_is_left_alone(tmp_path, making):
    file = tmp_path / "mlflow.db"
    prepare_database(file, None)
    write(file, "INSERT INTO experiments VALUES ('mine')")
    prepare_database(file, None)
    assert experiments(file) == ["Default", "mine"]
    prepare_database(Path(database()), None)
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_what_somebody_else_keeps_there_is_left_alone(tmp_path, making):
    file = tmp_path / "other.db"
    write(file, "CREATE TABLE patients (name)")
    prepare_database(file, None)
    assert not list(tmp_path.glob("*.unfinished"))
    file.write_bytes(b"no database at all" * 100)
    with pytest.raises(MedflError, match="is no SQLite database, or damaged"):
        prepare_database(file, None)
    assert file.read_bytes().startswith(b"no database")


def test_one_that_is_being_made_is_waited_for(tmp_path, making, monkeypatch):
    file = tmp_path / "mlflow.db"
    write(file, "CREATE TABLE experiments (name)", age=0)
    finish = lambda seconds: write(file, "INSERT INTO experiments VALUES ('theirs')")  # noqa: E731
    monkeypatch.setattr("medfl.tracking.local_database.time.sleep", finish)
    prepare_database(file, None)
    assert experiments(file) == ["theirs"]

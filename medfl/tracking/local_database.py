"""MLflow's database in a file: made whole under another name, so that whoever finds one finds all its tables."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
import time
from pathlib import Path

from medfl.errors import MedflError

AT_WORK = 30.0  # seconds after the last write in which somebody may still be making a database
POLL = 0.2


def prepare_database(file: Path, artifacts: str | None) -> None:
    """Have a database with all of MLflow's tables at a path. One that a first start of MLflow left half made, in which
    nothing was ever logged, is put aside as `<file>.unfinished` and made anew.

    Args:
        file: the database, in a folder that exists.
        artifacts: where its experiments keep their files.

    Raises:
        MedflError: the file is no database. OSError: it cannot be made.
    """
    while file.exists() and _unfinished(file):
        if time.time() - file.stat().st_mtime > AT_WORK:
            os.replace(file, file.with_name(f"{file.name}.unfinished"))
            with contextlib.suppress(FileNotFoundError):
                file.with_name(f"{file.name}-journal").unlink()
        else:
            time.sleep(POLL)
    if not file.exists():
        _make(file, artifacts)


def _unfinished(file: Path) -> bool:
    """Whether a first start ended before MLflow's last step, which is the experiment `Default`; every whole database
    has it."""
    if file.stat().st_size == 0:
        return True
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=10.0)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            ours = not tables or bool(tables & {"experiments", "alembic_version", "runs"})
            rows = database.execute("SELECT count(*) FROM experiments").fetchone() if "experiments" in tables else (0,)
    except sqlite3.OperationalError:  # somebody is writing, so it is in use
        return False
    except sqlite3.DatabaseError as error:
        raise MedflError(
            f"`tracking.uri`: {file} is no SQLite database, or damaged ({error}); restore it from a copy, or move it "
            f"away and give `medfl track RUN` for every run that it held"
        ) from None
    return ours and not rows[0]


def _make(file: Path, artifacts: str | None) -> None:
    """Make a database, unless another process is faster."""
    # Made here and not by the client, which would write the working directory into the new database.
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with tempfile.TemporaryDirectory(prefix=f".{file.name}.", suffix=".tmp", dir=file.parent) as folder:
        draft = Path(folder) / file.name
        store = SqlAlchemyStore(f"sqlite:///{draft}", artifacts)
        store.engine.dispose()
        try:
            os.link(draft, file)  # unlike a rename, never in the place of another's
        except FileExistsError:
            pass
        except OSError:  # no links on this disk
            os.replace(draft, file)

"""Purging a site's kit: what runs left goes, what the site is and what it can show stays."""

from typer.testing import CliRunner

from medfl.cli import app
from medfl.engines.processes import Crew, kit_mark
from medfl.engines.remote.purge_party import is_kit, private_kit_parts

GONE = {
    "0123abcd-0123-0123-0123-0123456789ab/app_site/x.txt",
    "log.txt",
    "log_error.txt",
    "medfl/allocation.csv",
    "medfl/data.key",
    "medfl/flare.log",
    "medfl/medfl.log",
    "medfl/state/run.safetensors",
}
KEPT = {"medfl/audit.end", "medfl/audit.jsonl", "medfl/pipeline.yaml", "medfl/policy.yaml", "startup/client.key"}


def test_a_kit_that_is_at_work_is_left_alone(tmp_path, monkeypatch):
    for name in ("startup/client.key", "medfl/state/run.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    monkeypatch.setattr(Crew, "marked", lambda crew: [crew.mark] if crew.mark == kit_mark(tmp_path) else [])
    done = CliRunner().invoke(app.app, ["purge", str(tmp_path), "--yes"])
    assert "end `medfl deploy join`" in str(done.exception)
    assert private_kit_parts(tmp_path)


def test_what_runs_left_goes_and_the_kit_is_still_one(tmp_path):
    for name in GONE | KEPT:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    done = CliRunner().invoke(app.app, ["purge", str(tmp_path)])
    assert "nothing was removed" in str(done.exception)
    assert "cannot go on with a run that is not over" in " ".join(done.output.split())
    assert CliRunner().invoke(app.app, ["purge", str(tmp_path), "--yes"]).exit_code == 0
    rest = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert rest == KEPT
    assert is_kit(tmp_path)
    assert private_kit_parts(tmp_path) == []

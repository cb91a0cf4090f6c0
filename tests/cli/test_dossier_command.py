"""`medfl dossier` on the command line."""

from typer.testing import CliRunner

from medfl.cli import app
from medfl.errors import MedflError
from tests.report.dossier_run import filed_run


def test_a_template_is_written_filled_in_and_read(tmp_path):
    run, file = str(filed_run(tmp_path / "run")), tmp_path / "answers.yaml"
    call = CliRunner().invoke
    done = call(app.app, ["dossier", run, "--template", str(file)])
    assert done.exit_code == 0, done.output
    assert "--answers" in done.output
    assert not (tmp_path / "run" / "dossier").exists()
    file.write_text(file.read_text().replace("\nfunding: null", "\nfunding: None received"))
    done = call(app.app, ["dossier", run, "--answers", str(file), "--out", str(tmp_path / "filed")])
    assert done.exit_code == 0, done.output
    assert "of 52 items not answered" in done.output
    assert "None received" in (tmp_path / "filed" / "claim.csv").read_text()
    done = call(app.app, ["dossier", run, "--template", str(file), "--answers", str(file)])
    assert isinstance(done.exception, MedflError)

"""`medfl dossier` on the command line."""

from cryptography.hazmat.primitives.asymmetric import rsa
from typer.testing import CliRunner

from medfl.cli import app
from medfl.errors import MedflError
from tests.engines.remote.test_file_signature import written
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


def test_a_signed_dossier_names_the_file_that_was_changed(tmp_path):
    run, filed = str(filed_run(tmp_path / "run")), tmp_path / "run" / "dossier"
    ours = written(tmp_path, "ours", rsa.generate_private_key(65537, 2048))

    def call(*words):
        return CliRunner().invoke(app.app, ["dossier", *map(str, words)])

    assert "No such file" in str(call(run, "--sign", tmp_path / "none.key").exception)
    assert not filed.exists()  # nothing is written before the key is there

    assert call(run, "--sign", ours[0]).exit_code == 0
    checked = call(run, "--verify", "--certificate", ours[1])
    assert checked.exit_code == 0
    assert "9 files are as they were written, signed by the key of" in checked.output
    assert "name --certificate to check it" in call(filed, "--verify").output

    claim, sums = filed / "claim.csv", filed / "SHA256SUMS"
    text = claim.read_text()
    claim.write_text(text + "x")
    assert "claim.csv was changed" in str(call(filed, "--verify").exception)
    claim.write_text(text)
    sums.write_text("".join(sums.read_text().splitlines(keepends=True)[1:]))
    assert "claim.csv was added" in str(call(filed, "--verify", "--certificate", ours[1]).exception)
    assert "SHA256SUMS is not what the key" in str(call(filed, "--verify", "--certificate", ours[1]).exception)

    assert "write" in str(call(run, "--verify", "--sign", ours[0]).exception)
    assert call(run).exit_code == 0  # written anew: what signed the earlier files is gone
    assert "was the dossier signed?" in str(call(filed, "--verify", "--certificate", ours[1]).exception)

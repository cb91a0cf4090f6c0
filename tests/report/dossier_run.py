"""A finished run folder of which a dossier is made: one site says much of its data, one little, two nothing."""

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path

from medfl.runs.digests import sealed
from tests.runfolders import FakeRun

SECRET = "/srv/hospital/patients"
OWNER, SCANNER = "University hospital, department of pathology", "Aperio GT 450, x40"


class FiledRun(FakeRun):
    """Sites north (says who owns its data and how they were scanned), south (who owns them), east, west."""

    def pipeline(self):
        return super().pipeline() | {"disclosure": {"min_count": 4}}

    def site(self, name):
        about = {"north": {"owner": OWNER, "scanner": SCANNER}, "south": {"owner": "Clinic"}}.get(name)
        return super().site(name) | ({"about": about} if about else {})

    def finish(self):
        super().finish()
        summary = json.loads((self.folder / "summary.json").read_text())
        (self.folder / "summary.json").write_text(json.dumps(sealed(summary, self.folder), indent=2) + "\n")
        return self


@functools.cache
def _pattern():
    """One run folder, of which every test has a copy."""
    base = Path(tempfile.mkdtemp(prefix="dossier-run-"))
    atexit.register(shutil.rmtree, base, True)
    failing = [(1, "south", f"OSError: {SECRET}/doe-jane.png")]
    return FiledRun(base / "run", root=SECRET, rounds=1, failing=failing).whole().folder


def filed_run(folder):
    """The run's folder."""
    return Path(shutil.copytree(_pattern(), folder))

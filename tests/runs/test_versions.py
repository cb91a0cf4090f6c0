"""The versions of a run: those of the installed packages, and what computes."""

import platform

from medfl.distribution import installed_version
from medfl.runs.versions import PACKAGES, versions


def test_they_are_those_installed():
    stated = versions()
    assert {name: stated[name] for name in PACKAGES} == {name: installed_version(name) for name in PACKAGES}
    assert stated["python"] == platform.python_version()
    assert stated["device"]

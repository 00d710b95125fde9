"""Any test may be an `async def`."""

from tests.support.aio import pytest_pyfunc_call

__all__ = ["pytest_pyfunc_call"]

"""Lets a test be an `async def`: it runs on the loop the product uses, at most a minute."""

from __future__ import annotations

import asyncio
import inspect

import pytest
import uvloop

_LIMIT = 60.0


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    work = pyfuncitem.obj
    if not inspect.iscoroutinefunction(work):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(work).parameters}
    uvloop.run(asyncio.wait_for(work(**arguments), _LIMIT))
    return True

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.program import Program
from tests.cli.scripted import Scripted


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Program]:
    with Scripted() as gateway, Scripted() as admin:
        yield Program(tmp_path, gateway, admin)

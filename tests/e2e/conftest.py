"""One bridge for the tests that only look; tests that break things start their own."""

from collections.abc import Iterator

import pytest

from tests.support.bridge import Bridge, running


@pytest.fixture(scope="package")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    with running(tmp_path_factory.mktemp("bridge")) as started:
        yield started

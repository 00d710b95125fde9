"""A process that runs a manager with its engine and nothing else, to be killed by a test: ``… bridge_process HOME``.

Prints ``pid generation`` when its engine serves.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop

from tests.models.world import build


async def serve(home: Path) -> None:
    made = build(home)
    await made.manager.start()
    async with made.pool.lease("first") as route:
        print(made.manager.status()["pid"], route.generation, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))

"""/status for people and the CLI, /health for probes. A probe never loads a model and never calls one."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import Response

from llm_bridge.control import schemas
from llm_bridge.control.bridge import Bridge, TheBridge, TheLang
from llm_bridge.version import VERSION


async def get_status(bridge: TheBridge, lang: TheLang) -> dict[str, Any]:
    engine = dict(bridge.manager.status())
    current = bridge.store.current
    active = current.local or current.default
    return {
        "version": VERSION,
        "uptime_s": round(max(0.0, time.time() - bridge.started_at), 1),
        "ready": bridge.manager.ready,
        "gateway": str(bridge.settings.gateway),
        "admin": str(bridge.settings.admin),
        "active": {
            "name": active.name,
            "provider_model": active.provider_model,
            "in_flight": engine.get("in_flight", 0),
        }
        if active
        else None,
        "engine": {
            "kind": "embedded" if bridge.settings.engine == "auto" else bridge.settings.engine,
            "state": engine.get("engine"),
            "pid": engine.get("pid"),
            "reason": (engine.get("last_error") or {}).get(lang),
            "details": engine,
        },
        "config": await asyncio.to_thread(_config, bridge),
        "models": [entry.name for entry in current.models],
    }


def _config(bridge: Bridge) -> dict[str, Any]:
    """`revision` is what runs; `on_disk` differs while an edit waits for being applied."""
    return {
        "path": str(bridge.store.path),
        "revision": bridge.store.current.revision,
        "on_disk": bridge.store.disk_revision(),
        "warning": bridge.store.warning,
        "unapplied": list(bridge.store.current.unapplied),
    }


async def get_health() -> schemas.Health:
    """The process answers."""
    return schemas.Health(status="ok")


async def get_readiness(bridge: TheBridge, response: Response) -> schemas.Health:
    """Every configured model can be asked; 503 until then."""
    if bridge.manager.ready:
        return schemas.Health(status="ok")
    response.status_code = 503
    return schemas.Health(status="not ready")

"""A2: every route declares who may call it, and is answered accordingly whatever the credentials look like."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import APIRouter

from llm_bridge.control.app import ROUTES
from llm_bridge.control.auth import Role, authorise
from llm_bridge.control.guarded import GuardedRoute
from llm_bridge.errors import NotAuthorised
from tests.control.scripted import world
from tests.support.asgi import send

KEY = "admin-canary-鍵"
PUBLIC = {"/", "/health", "/health/liveliness", "/health/readiness", "/docs", "/docs/{name}", "/openapi.json"}
GARBAGE: list[dict[str, str | bytes]] = [
    {},
    {"authorization": "Bearer wrong"},
    {"authorization": f"Bearer {KEY}x"},
    {"authorization": KEY},
    {"authorization": f"Basic {KEY}"},
    {"authorization": "Bearer"},
    {"authorization": "Bearer "},
    {"authorization": b"Bearer \xff\xfe\x00"},
    {"x-api-key": "wrong"},
    {"x-api-key": ""},
    {"x-api-key": b"\x80" * 100_000},
    {"authorization": f"Bearer {KEY}", "x-api-key": "other"},
    {"authorization": "Bearer other", "x-api-key": KEY},
]
RIGHT: list[dict[str, str | bytes]] = [
    {"authorization": f"Bearer {KEY}"},
    {"authorization": f"bearer  {KEY} "},
    {"x-api-key": KEY},
    {"authorization": f"Bearer {KEY}", "x-api-key": KEY},
]


def test_the_roles_are_these() -> None:
    assert {entry.path for entry in ROUTES if entry.role is Role.PUBLIC} == PUBLIC
    assert all(entry.method == "GET" for entry in ROUTES if entry.role is Role.PUBLIC)


async def test_every_route_of_the_app_declares_a_role(tmp_path: Path) -> None:
    app = world(tmp_path).app
    found = [route for route in app.router.routes if isinstance(route, GuardedRoute)]
    assert len(found) == len(app.router.routes) == len(ROUTES)
    assert {route.role for route in found} == {Role.PUBLIC, Role.ADMIN}


def test_an_undeclared_route_cannot_be_built() -> None:
    router = APIRouter(route_class=GuardedRoute)
    with pytest.raises(KeyError):
        router.add_api_route("/new", lambda: None)


async def test_a2_routes_and_credentials(tmp_path: Path) -> None:
    here, wrong, asked = world(tmp_path, admin_key=KEY), [], 0
    for entry in ROUTES:
        path = entry.path.replace("{name:path}", "bridge-mini").replace("{name}", "page.css")
        for headers, right in [*((h, False) for h in GARBAGE), *((h, True) for h in RIGHT)]:
            answer = await send(here.app, entry.method, path, None, headers)
            asked += 1
            refused = answer.status == 401
            if refused == (right or entry.role is Role.PUBLIC) or answer.status >= 500:
                wrong.append((entry.method, path, headers, answer.status))
            if refused:
                assert "LLM_BRIDGE_ADMIN_KEY" in answer.detail
                assert answer.headers["www-authenticate"] == "Bearer"
    print(f"A2: {asked} requests over {len(ROUTES)} routes, mismatches {len(wrong)}")
    assert wrong == []


async def test_the_body_is_not_read_before_the_key_is_checked(tmp_path: Path) -> None:
    answer = await send(world(tmp_path, admin_key=KEY).app, "POST", "/models/manage", b"{")
    assert answer.status == 401


async def test_without_a_key_everything_is_open(tmp_path: Path) -> None:
    app = world(tmp_path).app
    assert (await send(app, "GET", "/models")).status == 200
    assert (await send(app, "GET", "/models", headers={"authorization": "Bearer x"})).status == 200


def test_odd_header_bytes_never_raise_anything_else() -> None:
    for byte in range(256):
        with pytest.raises(NotAuthorised):
            authorise(Role.ADMIN, [(b"Authorization", b"Bearer " + bytes([byte]))], KEY)

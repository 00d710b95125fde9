"""/docs works offline under a strict policy, and the OpenAPI document is complete."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from llm_bridge.control.app import ROUTES
from tests.control.scripted import World, world
from tests.support.asgi import send

METHODS = {"get", "post", "put", "delete"}


@pytest.fixture
def here(tmp_path: Path) -> World:
    return world(tmp_path)


async def test_pages_load_only_from_here_and_run_no_inline_script(here: World) -> None:
    for path in ("/", "/docs"):
        page = await send(here.app, "GET", path, headers={"accept": "text/html"})
        links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert links
        for link in links:
            assert link.startswith("/")
            assert not link.startswith("//")
            assert (await send(here.app, "GET", link)).status == 200, link
        assert re.findall(r"<script(?![^>]*\bsrc=)[^>]*>|\son\w+=|<style|style=|javascript:", page.text) == []


async def test_every_answer_carries_the_policy(here: World) -> None:
    for path in ("/", "/docs", "/docs/docs-init.js", "/models", "/nowhere", "/openapi.json"):
        headers = (await send(here.app, "GET", path)).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy and "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
    assert (await send(here.app, "GET", "/models")).headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/", "/docs", "/docs/page.css", "/docs/swagger-ui-bundle.js"])
async def test_what_the_browser_has_is_not_sent_again(here: World, path: str) -> None:
    whole = await send(here.app, "GET", path)
    tag = whole.headers["etag"]
    assert (whole.status, bool(whole.body), whole.headers["cache-control"]) == (200, True, "no-cache")
    for asked in (tag, f'W/"x", W/{tag}', "*"):
        again = await send(here.app, "GET", path, headers={"if-none-match": asked})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
        assert again.headers["cache-control"] == "no-cache"
        assert "content-security-policy" in again.headers
    assert (await send(here.app, "GET", path, headers={"if-none-match": '"other"'})).status == 200


@pytest.mark.parametrize("name", ["..", "docs.html", "../app.py", "%2e%2e", "index.html", "a\x00"])
async def test_only_listed_assets_are_served(here: World, name: str) -> None:
    assert (await send(here.app, "GET", f"/docs/{name}")).status == 404


async def document(here: World) -> dict[str, Any]:
    answer = await send(here.app, "GET", "/openapi.json")
    assert isinstance(answer.json, dict)
    return answer.json


async def test_every_route_is_documented_in_both_languages_with_examples(here: World) -> None:
    spec = await document(here)
    assert spec["openapi"].startswith("3.0.")
    operations = {(m.upper(), path): op for path, item in spec["paths"].items() for m, op in item.items()}
    shown = {(entry.method, entry.path.replace(":path", "")) for entry in ROUTES if not entry.hidden}
    assert set(operations) == shown
    identifiers = [op["operationId"] for op in operations.values()]
    assert len(set(identifiers)) == len(identifiers)
    for (method, path), op in operations.items():
        assert " / " in op["summary"], path
        for response in op["responses"].values():
            assert "description" in response
        if method in ("POST", "PUT") and not path.endswith("reload"):
            assert "requestBody" in op, path
    for name, schema in spec["components"]["schemas"].items():
        if name.endswith("Request"):
            assert "example" in schema, name
        for field, value in schema.get("properties", {}).items():
            said = {"description", "example", "default", "enum"} & set(value)
            assert said or "example" in schema, (name, field)


async def test_the_document_is_plain_openapi_3_0(here: World) -> None:
    """What 3.1 added would leave the page empty."""

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict):
            assert node.get("type") != "null", path
            assert "const" not in node, path
            assert not isinstance(node.get("examples"), list), path
            for key, value in node.items():
                if key != "example":
                    walk(value, f"{path}/{key}")
        elif isinstance(node, list):
            for item in node:
                walk(item, path)

    spec = await document(here)
    walk(spec, "")
    references = set(re.findall(r"#/components/schemas/(\w+)", str(spec)))
    assert references <= set(spec["components"]["schemas"])
    assert "HTTPValidationError" not in str(spec)


async def test_the_document_asks_for_the_key_where_one_is_set(tmp_path: Path) -> None:
    spec = await document(world(tmp_path, admin_key="k"))
    assert spec["paths"]["/models"]["get"]["security"] == [{"admin": []}]
    assert "security" not in spec["paths"]["/health"]["get"]

"""Security headers on every answer, as plain ASGI (Starlette's BaseHTTPMiddleware hides hang-ups, buffers streams)."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class SecureHeaders:
    """Adds the headers that an answer does not set itself."""

    def __init__(self, app: ASGIApp, csp: str) -> None:
        self._app = app
        self._headers = {
            b"content-security-policy": csp.encode("ascii"),
            b"x-content-type-options": b"nosniff",
            b"referrer-policy": b"no-referrer",
            b"cross-origin-opener-policy": b"same-origin",
            b"cross-origin-resource-policy": b"same-origin",
            b"cache-control": b"no-store",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", []))
                names = {name.lower() for name, _ in given}
                more = [(name, value) for name, value in self._headers.items() if name not in names]
                message = {**message, "headers": given + more}
            await send(message)

        await self._app(scope, receive, with_headers)

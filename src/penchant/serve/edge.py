"""What every request passes on its way in and out: a bound on its body, safe headers, one log line, no leaked trace."""

from __future__ import annotations

import logging
import time
import traceback

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("penchant.serve")

HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


class Edge:
    """Outermost layer of the application.

    Args:
        max_body_bytes: a request with more is refused with 413 before it is parsed, whatever length it claims.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 0

        async def out(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        body = await _read(receive, self.max_body_bytes)
        if body is None:
            await _refuse(out, 413, "body", f"more than {self.max_body_bytes} bytes", "Send it in parts.")
        else:
            try:
                await self.app(scope, _replay(body, receive), out)
            except Exception as error:
                # The stack alone: an exception's message may hold a user's id or words.
                stack = "".join(traceback.format_tb(error.__traceback__))
                log.error("%s in %s\n%s", type(error).__name__, _route(scope), stack)
                if not status:
                    await _refuse(out, 500, "server", "internal error", "The server's log has the place.")
        log.info("%s %s %s %.1f ms", scope["method"], _route(scope), status, 1000 * (time.perf_counter() - start))


async def _read(receive: Receive, limit: int) -> bytes | None:
    """The whole body; None where it is longer than `limit`."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            return None
        more = message.get("more_body", False)
    return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return pending.pop() if pending else await receive()

    return again


async def _refuse(send: Send, status: int, field: str, problem: str, fix: str) -> None:
    body = orjson.dumps({"errors": [{"field": field, "value": None, "problem": problem, "fix": fix}]})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 413:
        headers.append((b"connection", b"close"))  # the rest of the body is still on its way
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _route(scope: Scope) -> str:
    """The route's pattern; a path itself would carry ids."""
    return getattr(scope.get("route"), "path", "(no route)")

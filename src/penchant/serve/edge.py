"""What every request passes on its way in and out: whom it asks for, bounds on its body, safe headers, one log line,
no leaked trace."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import traceback
from collections.abc import Set

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
        body_seconds: a request whose body takes longer to come is refused with 408.
        hosts: names a request may ask for, at any port; another is refused with 403. A page elsewhere that has its own
            name lead to this machine (DNS rebinding) asks for that name. None = any.
    """

    def __init__(
        self, app: ASGIApp, max_body_bytes: int, body_seconds: float = 10, hosts: Set[str] | None = None
    ) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.body_seconds = body_seconds
        self.hosts = None if hosts is None else {_without_port(host) for host in hosts}

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

        try:
            await self._answer(scope, receive, out)
        except Exception as error:
            # The stack alone: an exception's message may hold a user's id or words.
            stack = "".join(traceback.format_tb(error.__traceback__))
            log.error("%s in %s\n%s", type(error).__name__, _route(scope), stack)
            if not status:
                await _refuse(out, 500, "server", "internal error", "The server's log has the place.")
        log.info("%s %s %s %.1f ms", scope["method"], _route(scope), status, 1000 * (time.perf_counter() - start))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        foreign = _foreign(scope, self.hosts)
        if foreign is not None:
            fix = "Ask localhost, or allow the name with `penchant serve --allow-host NAME`."
            await _refuse(send, 403, "host", "is no name of this server", fix, foreign[:100])
            return
        try:
            async with asyncio.timeout(self.body_seconds):
                body = await _read(receive, self.max_body_bytes)
        except TimeoutError:
            await _refuse(
                send, 408, "body", f"took longer than {self.body_seconds} s", "Send it again, without pauses."
            )
            return
        if body is None:
            await _refuse(send, 413, "body", f"more than {self.max_body_bytes} bytes", "Send it in parts.")
            return
        await self.app(scope, _replay(body, receive), send)


def _foreign(scope: Scope, hosts: Set[str] | None) -> str | None:
    """The name by which the request asks for this server, where `hosts` lacks it; no browser leaves one out."""
    asked = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    return next((host for host in asked if hosts is not None and _without_port(host) not in hosts), None)


def _without_port(host: str) -> str:
    return re.sub(r":\d*$", "", host).lower()


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


async def _refuse(send: Send, status: int, field: str, problem: str, fix: str, value: str | None = None) -> None:
    body = orjson.dumps({"errors": [{"field": field, "value": value, "problem": problem, "fix": fix}]})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers.append((b"connection", b"close"))  # the rest of the body may be still on its way
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _route(scope: Scope) -> str:
    """The route's pattern; a path itself would carry ids."""
    return getattr(scope.get("route"), "path", "(no route)")

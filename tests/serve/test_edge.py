"""What a request passes before it reaches a route."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from starlette.types import Message, Receive, Scope, Send

from penchant.serve.edge import Edge


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def asked(edge: Edge, parts: list[bytes], seconds: float) -> tuple[int, bytes, Any]:
    """Status, `connection` and body of the answer to a body that comes in parts, each after `seconds`."""
    sent: list[Message] = []
    coming = list(parts)

    async def receive() -> Message:
        await asyncio.sleep(seconds)
        return {"type": "http.request", "body": coming.pop(0), "more_body": bool(coming)}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    asyncio.run(edge(scope, receive, send))
    start, body = sent
    return start["status"], dict(start["headers"]).get(b"connection", b""), body["body"]


def test_a_body_that_stalls_is_given_up() -> None:
    edge = Edge(echo, max_body_bytes=100, body_seconds=0.05)
    assert asked(edge, [b"a", b"b"], 0) == (200, b"", b"ab")
    for parts, seconds in (([b"{"], 20.0), ([b" "] * 100, 0.01)):  # none comes; each comes, and all take too long
        status, connection, body = asked(edge, parts, seconds)
        assert (status, connection) == (408, b"close")
        (error,) = orjson.loads(body)["errors"]
        assert (error["field"], error["problem"]) == ("body", "took longer than 0.05 s")
        assert error["fix"]

"""The HTTP server: JSON under /v1, the console page at /.

Log lines name method, route, status and time, never a user, an item or a query.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import torch
import uvicorn
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from penchant import __version__
from penchant.errors import ConfigError
from penchant.serve import schemas
from penchant.serve.bundle import Bundle
from penchant.serve.edge import Edge
from penchant.serve.events import EventLog, LogBusyError, LogUnwritableError
from penchant.serve.histories import UnknownItemError
from penchant.serve.service import FieldError, InterestTeller, Service, set_deadline

log = logging.getLogger("penchant.serve")

CONSOLE = Path(__file__).parent / "console"
CONSOLE_FILES = {"style.css": "text/css", "app.js": "text/javascript", "icon.svg": "image/svg+xml"}
MAX_CONNECTIONS = 256
"""Open connections, idle ones too; a request on one more is answered with 503 at once."""

MAX_READING = 4
"""Interests that are read or wait for it; one more is answered with 503 at once."""

REFUSED: dict[int | str, dict[str, Any]] = {status: {"model": schemas.Problems} for status in (403, 408, 413, 422, 500)}


class _Request(Request):
    async def json(self) -> Any:
        # The standard library lets half a surrogate through, which no answer could repeat, and what it cannot read
        # raises more than one kind of error.
        return orjson.loads(await self.body())


class _Route(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_Request(request.scope, request.receive))

        return handle


def create_app(service: Service, workers: int | None = None, hosts: Set[str] | None = None) -> FastAPI:
    """The application over a service.

    Args:
        workers: threads that run models; as many as the machine has processors if left out.
        hosts: names that requests may ask for, see `Edge`.
    """
    pool = ThreadPoolExecutor(workers or os.cpu_count() or 1, thread_name_prefix="penchant")
    # Telling words takes many passes: one at a time, and never on a thread that lists are made on.
    reading = ThreadPoolExecutor(1, thread_name_prefix="penchant-read")
    # Events wait for the disk, and for another process that writes: one after the other, and no list behind them.
    writing = ThreadPoolExecutor(1, thread_name_prefix="penchant-write")
    waiting = 0

    async def answer(function: Callable[[], Any], status: int = 200, on: ThreadPoolExecutor = pool) -> Response:
        # Models run in the pool, so the loop goes on accepting and health checks are answered meanwhile.
        result = await asyncio.get_running_loop().run_in_executor(on, function)
        return _json(result, status)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        pool.shutdown()
        reading.shutdown()
        writing.shutdown()
        service.log.close()

    # The generated documentation pages load scripts from elsewhere; /openapi.json itself stays.
    app = FastAPI(title="Penchant", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.router.route_class = _Route
    app.add_middleware(Edge, max_body_bytes=schemas.MAX_BODY_BYTES, hosts=hosts)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(FieldError, _refused_field)
    app.add_exception_handler(UnknownItemError, _unknown_item)
    app.add_exception_handler(LogBusyError, _log_busy)
    app.add_exception_handler(LogUnwritableError, _log_unwritable)
    app.add_exception_handler(HTTPException, _http_error)

    @app.post("/v1/recommend", response_model=schemas.RecommendOutput, responses=REFUSED)
    async def recommend(body: schemas.RecommendInput) -> Response:
        """A list for a user, for a history of items, or for an anonymous visitor."""
        return await answer(
            lambda: service.recommend(body.user_id, body.history, body.k, body.exclude_seen, body.explain)
        )

    @app.post("/v1/search", response_model=schemas.SearchOutput, responses=REFUSED)
    async def search(body: schemas.SearchInput) -> Response:
        """Items whose words match, in the order of this user's interest; without a history, of the text match."""
        return await answer(lambda: service.search(body.query, body.user_id, body.k))

    @app.post(
        "/v1/events",
        response_model=schemas.EventsOutput,
        status_code=201,
        responses={**REFUSED, 503: REFUSED[422]},
    )
    async def events(body: schemas.EventsInput) -> Response:
        """Log events; they are on the disk when this answers, and the user's next request sees them."""
        return await answer(lambda: service.append([event.model_dump() for event in body.events]), 201, on=writing)

    @app.post(
        "/v1/interest",
        response_model=schemas.InterestOutput,
        responses={**REFUSED, 404: REFUSED[422], 503: REFUSED[422]},
    )
    async def interest(body: schemas.InterestInput) -> Response:
        """What a user's vector says, told from it alone: words, and the items nearest to it."""
        if not service.reads:
            fix = "Export with `penchant export --reader`, and serve with `penchant serve --read`."
            return _problem("path", "/v1/interest", "this server reads no interests", fix, 404)
        nonlocal waiting
        if waiting >= MAX_READING:
            return _problem("path", "/v1/interest", "others are being read", "Ask again in a second.", 503)
        waiting += 1
        try:
            told = lambda: service.interest(body.user_id, body.history, body.query, body.k)  # noqa: E731
            return await answer(told, on=reading)
        finally:
            waiting -= 1

    @app.get("/v1/users", response_model=schemas.UsersOutput)
    async def users(limit: int = Query(20, ge=1, le=schemas.MAX_USERS)) -> Response:
        """Some users with a history."""
        return await answer(lambda: service.users(limit))

    # Not a GET: what stands in a path ends up in the logs of every proxy on the way.
    @app.post("/v1/history", response_model=schemas.HistoryOutput, responses=REFUSED)
    async def history(body: schemas.HistoryInput) -> Response:
        """A user's history, newest first."""
        return await answer(lambda: service.history(body.user_id, body.limit))

    @app.get("/v1/items/{item_id:path}", response_model=schemas.ItemDetail, responses={404: REFUSED[422]})
    async def item(item_id: schemas.Id) -> Response:
        """An item of the catalogue."""
        return await answer(lambda: service.item(item_id))

    @app.get("/v1/thumbnails/{item_id:path}", response_class=Response, responses={404: REFUSED[422]})
    async def thumbnail(item_id: schemas.Id) -> Response:
        """An item's picture, a JPEG of at most 96 x 144."""
        picture = service.thumbnail(item_id)
        if picture is None:
            return _problem("item_id", item_id, "has no picture", "Show its title instead.", 404)
        return Response(picture, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    @app.get("/healthz", response_model=schemas.HealthOutput)
    async def healthz() -> Response:
        """The server answers; what it serves."""
        return _json(service.health())

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(CONSOLE / "index.html", media_type="text/html")

    @app.get("/console/{name}", include_in_schema=False)
    async def console(name: str) -> Response:
        if name not in CONSOLE_FILES:
            raise HTTPException(404)
        return FileResponse(CONSOLE / name, media_type=CONSOLE_FILES[name])

    return app


def serve(
    bundle: str | Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    events: str | Path | None = None,
    *,
    allow_hosts: Sequence[str] = (),
    deadline_ms: float | None = None,
    read: Callable[[Bundle], InterestTeller] | None = None,
) -> None:
    """Serve a bundle until interrupted (SIGINT or SIGTERM, which end it cleanly).

    Args:
        events: the event log; `<bundle>.events.sqlite` beside the bundle if left out.
        allow_hosts: names, beside this machine's own, by which it may be asked: those a proxy passes on. Only its own
            are answered where it listens on loopback, any elsewhere, unless some are given.
        deadline_ms: see `set_deadline`.
        read: makes what tells interests in words.

    Raises:
        BundleError: the bundle is missing or damaged, or has no reader where one is wanted.
        ConfigError: the address cannot be had; a deadline that nothing here keeps.
    """
    bundle = Path(bundle).resolve()  # "." has no name to call the log by
    logging.basicConfig(format="%(asctime)s %(message)s")  # does nothing where the caller set logging up
    log.setLevel(logging.INFO)
    listening = _listen(host, port)
    with listening:
        host, port = listening.getsockname()[:2]
        loaded = Bundle.load(bundle)
        if deadline_ms is not None:
            set_deadline(loaded, deadline_ms)
        reader = read(loaded) if read else None
        kept = EventLog(events or bundle.with_name(f"{bundle.name}.events.sqlite"))
        service = Service(loaded, kept, reader=reader)
        # Requests run side by side; more threads inside one of them would only contend for the same processors.
        torch.set_num_threads(1)
        loopback = ipaddress.ip_address(host).is_loopback
        if not loopback:
            log.warning(
                "listening on %s: whoever reaches this machine can read every user's history and write events; "
                "there is no login. Put it behind a proxy that asks for one, or use --host 127.0.0.1.",
                host,
            )
        address = f"[{host}]" if ":" in host else host
        own = {"localhost", "127.0.0.1", "[::1]", address}
        hosts = own.union(allow_hosts) if loopback or allow_hosts else None
        log.info("%s items, %s users on http://%s:%s", loaded.num_items, loaded.num_users, address, port)
        config = uvicorn.Config(
            create_app(service, hosts=hosts),
            # uvicorn's own lines would carry whole paths, ours carry routes.
            access_log=False,
            log_level="warning",
            limit_concurrency=MAX_CONNECTIONS,
            server_header=False,
            timeout_graceful_shutdown=10,
        )
        # uvicorn finishes what is in flight on SIGTERM, then raises it again; having been obeyed it ends there.
        before = signal.signal(signal.SIGTERM, lambda *_: None)
        try:
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:
            log.info("stopped")
        finally:
            signal.signal(signal.SIGTERM, before)


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:  # getaddrinfo would take the rest of it
        raise ConfigError(
            f"cannot listen on {host}:{port}", fix="Choose a --port from 1 to 65535, or 0 for any free one."
        )
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port} ({error})", fix="Choose another --port, or --host 127.0.0.1."
        ) from error
    return listening


def _json(value: object, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")


def _problem(field: str, value: object, problem: str, fix: str, status: int = 422) -> Response:
    return _json({"errors": [{"field": field, "value": _short(value), "problem": problem, "fix": fix}]}, status)


def _short(value: object) -> str | int | float | bool | None:
    """A refused value, short enough to send back."""
    if value is None or isinstance(value, bool | int | float):
        return value if not isinstance(value, int) or abs(value) < 2**53 else str(value)[:100]
    if isinstance(value, list | dict):
        return f"{'list' if isinstance(value, list) else 'object'} of {len(value)}"
    text = str(value)
    return text if len(text) <= 100 else f"{text[:100]}... ({len(text)} characters)"


FIXES = {
    "missing": "Add it.",
    "extra_forbidden": "Remove it, or look up its spelling in /openapi.json.",
    "json_invalid": "Send valid JSON in UTF-8.",
    "model_attributes_type": "Send a JSON object with Content-Type: application/json.",
    "string_type": "Put it in quotes.",
}


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = []
    for problem in error.errors()[:10]:
        place = [str(p) for p in problem["loc"][1:]]  # the first says body, query or path
        if problem["type"] == "json_invalid":
            place, problem = ["body"], {**problem, "input": None, "msg": f"JSON: {problem['ctx']['error']}"}
        value = None if problem["type"] == "missing" else _short(problem["input"])
        says = "is blank" if isinstance(value, str) and value and not value.strip() else problem["msg"]
        fix = FIXES.get(problem["type"]) or f"Send {_takes(problem['loc'])}."
        errors.append({"field": ".".join(place) or "body", "value": value, "problem": says, "fix": fix})
    return _json({"errors": errors}, 422)


def _takes(place: Sequence[str | int]) -> str:
    """What a field takes."""
    names = ["*" if isinstance(part, int) else part for part in place]
    both = ".".join(names[-2:])
    return schemas.SEND.get(both) or schemas.SEND.get(names[-1], "what /openapi.json says")


async def _refused_field(_: Request, error: Exception) -> Response:
    assert isinstance(error, FieldError)
    return _problem(error.field, error.value, error.problem, error.fix)


async def _unknown_item(_: Request, error: Exception) -> Response:
    assert isinstance(error, UnknownItemError)
    status = 404 if error.where == "item_id" else 422
    return _problem(error.where, error.item_id, "is not in the catalogue", "Send an id of the exported items.", status)


async def _log_busy(_: Request, error: Exception) -> Response:
    assert isinstance(error, LogBusyError)
    return _problem("events", None, "another process is writing to the log", "Send them again in a second.", 503)


async def _log_unwritable(_: Request, error: Exception) -> Response:
    log.error("%s", error)  # the file and what SQLite says, nobody's events
    fix = "Send them again when the server's disk is mended: its log says what is wrong."
    return _problem("events", None, "the event log cannot be written, and none of them was kept", fix, 503)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    fix = "The paths and methods are in /openapi.json."
    return _problem("method" if error.status_code == 405 else "path", None, str(error.detail), fix, error.status_code)

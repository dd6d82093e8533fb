"""What the server takes and gives, with its bounds. The only place that knows pydantic."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MAX_BODY_BYTES = 1 << 20
MAX_K = 1000
MAX_HISTORY = 1000
MAX_EVENTS = 1000
MAX_QUERY_CHARS = 200
MAX_ID_CHARS = 256
MAX_USERS = 100

Id = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS, pattern=r"\S")]

_AN_ID = f"1 to {MAX_ID_CHARS} characters that are not all blank"
SEND = {
    "user_id": _AN_ID,
    "item_id": _AN_ID,
    "event_id": _AN_ID,
    "history": f"a list of at most {MAX_HISTORY:,} item ids",
    "history.*": _AN_ID,
    "query": f"1 to {MAX_QUERY_CHARS} characters",
    "k": f"a whole number from 1 to {MAX_K:,}",
    "limit": f"a whole number from 1 to {MAX_HISTORY:,}",
    "query.limit": f"a whole number from 1 to {MAX_USERS}",
    "events": f"a list of 1 to {MAX_EVENTS:,} events",
    "events.*": "an object with user_id and item_id",
    "action": "at most 32 lower-case letters and underscores, such as click, add_to_cart, buy",
    "ts_ms": "milliseconds since 1970 UTC as a whole number, or leave it out",
    "exclude_seen": "true or false",
    "explain": "true or false",
}
"""What a field takes, by its name, or by its last two where that is not enough; * is a place in a list."""


class _Input(BaseModel):
    # A misspelt field is named in the answer, not passed over; "5" is not taken for 5.
    model_config = ConfigDict(extra="forbid", strict=True)


class RecommendInput(_Input):
    """Whom to recommend to: a user, or a history of items; neither means an anonymous visitor."""

    user_id: Id | None = Field(None, description="A user the server does not know is a new user, not an error.")
    history: Annotated[list[Id], Field(max_length=MAX_HISTORY)] | None = Field(
        None, description="Item ids, oldest first, instead of a user's own history."
    )
    k: int | None = Field(None, ge=1, le=MAX_K, description="Length of the list; the funnel's list_size if left out.")
    exclude_seen: bool | None = Field(None, description="Leave out items of the history; the funnel's own if left out.")
    explain: bool = Field(False, description="Add each item's place after every stage and its channels' raw scores.")

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"user_id": "42", "k": 10}, {"history": ["50", "181"], "k": 5}]}
    )


class SearchInput(_Input):
    """A text query, by a user or by nobody."""

    query: Annotated[str, Field(min_length=1, max_length=MAX_QUERY_CHARS)]
    user_id: Id | None = None
    k: int | None = Field(None, ge=1, le=MAX_K)

    model_config = ConfigDict(json_schema_extra={"examples": [{"query": "star wars", "user_id": "42", "k": 10}]})


class HistoryInput(_Input):
    """Whose history."""

    user_id: Id
    limit: int = Field(50, ge=1, le=MAX_HISTORY)

    model_config = ConfigDict(json_schema_extra={"examples": [{"user_id": "42", "limit": 50}]})


class InterestInput(_Input):
    """Whose interest: a user's, or that of a history of items; with a query where the model reads queries."""

    user_id: Id | None = None
    history: Annotated[list[Id], Field(max_length=MAX_HISTORY)] | None = None
    query: Annotated[str, Field(min_length=1, max_length=MAX_QUERY_CHARS)] | None = None
    k: int | None = Field(None, ge=1, le=MAX_K, description="Nearest items; the funnel's list_size if left out.")

    model_config = ConfigDict(json_schema_extra={"examples": [{"user_id": "42", "k": 5}]})


class EventInput(_Input):
    """One action of a user."""

    user_id: Id
    item_id: Id
    action: Annotated[str, Field(pattern=r"^[a-z][a-z_]{0,31}$")] = "click"
    ts_ms: int | None = Field(None, ge=0, description="Milliseconds since 1970 UTC; the server's time if left out.")
    event_id: Id | None = Field(None, description="Your own name of the event: sent twice, it is kept once.")


class EventsInput(_Input):
    """Events that are kept together or, where one is refused, not at all."""

    events: Annotated[list[EventInput], Field(min_length=1, max_length=MAX_EVENTS)]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"events": [{"user_id": "42", "item_id": "50", "action": "click", "event_id": "a-1"}]}]
        }
    )


class StagePlaces(BaseModel):
    """Place from 1 after each stage."""

    merged: int
    preranked: int
    ranked: int


class ItemOutput(BaseModel):
    """One item of a list."""

    id: str
    title: str
    category: str | None
    thumbnail: str | None = Field(description="Path of its picture on this server; null where it has none.")
    score: float
    chance: float | None = Field(
        None,
        description="That this is the user's next click; left out without a calibrated bundle, or without history.",
    )
    rank: int
    channels: dict[str, int] = Field(description="Channel -> the item's rank in that channel's list.")
    channel_scores: dict[str, float] | None = Field(None, description="With `explain`: raw scores.")
    stages: StagePlaces | None = Field(None, description="With `explain`.")
    text_rank: int | None = Field(None, description="In a search: place by text match alone.")


class RecommendOutput(BaseModel):
    """A list, how it came about and how long that took."""

    items: list[ItemOutput]
    served: str = Field(description='"personal", or "popular (new user)" where there is no history to go by.')
    reason: str | None = Field(description="Why the list is shorter than asked; null where it is not.")
    timing_ms: dict[str, float]


class SearchOutput(RecommendOutput):
    """Items that match a query."""

    matched: str = Field(description='"item id", "all words", "some words", "close spelling" or "nothing".')


class EventsOutput(BaseModel):
    """How many events were new, and how many repeats of an event_id."""

    accepted: int
    repeated: int


class HistoryItem(BaseModel):
    """An action of a user's history."""

    id: str
    title: str
    category: str | None
    thumbnail: str | None
    ts_ms: int | None = Field(description="null where the bundle's data has an order but no times.")


class HistoryOutput(BaseModel):
    """A user's history, newest first."""

    user_id: str
    known: bool
    length: int = Field(description="Actions the funnel sees; `history` may show fewer.")
    history: list[HistoryItem]


class CardOutput(BaseModel):
    """An item as it is shown."""

    id: str
    title: str
    category: str | None
    thumbnail: str | None


class InterestOutput(BaseModel):
    """A vector, read."""

    words: str = Field(description="The likeliest words, told from the vector alone; not the text of any item.")
    nearest: list[CardOutput]
    reason: str | None = Field(description="Why nothing is told; null where something is.")
    timing_ms: dict[str, float]


class UsersOutput(BaseModel):
    """Some users with a history, spread over the table."""

    users: list[str]
    total: int


class ItemDetail(BaseModel):
    """An item of the catalogue."""

    id: str
    title: str
    category: str | None
    text: str | None
    thumbnail: str | None


class HealthOutput(BaseModel):
    """The server answers, and from what."""

    status: str
    items: int
    users: int
    channels: list[str]
    list_size: int
    max_k: int
    synthetic: bool
    data: str
    reads: bool = Field(description="Whether /v1/interest answers.")
    reads_queries: bool = Field(description="Whether it takes a query.")
    pictures: bool = Field(description="Whether any item has a picture.")


class Problem(BaseModel):
    """What is wrong with a request."""

    field: str
    value: str | int | float | bool | None
    problem: str
    fix: str


class Problems(BaseModel):
    """Body of every refusal."""

    errors: list[Problem]

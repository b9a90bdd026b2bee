"""The search service for programs: `m.search` of a client, blocking or asyncio.

m.search.create("docs", {"title": text(boost=2), "body": text(), "year": integer()})
m.search.index("docs", [{"id": "a-1", "title": "Consistent hashing", "year": 1997}])
for hit in m.search.query("docs", "hashing", highlight=["title"]): ...
"""

from __future__ import annotations

from mesh.client.search.aio import AsyncSearch
from mesh.client.search.blocking import Search
from mesh.client.search.fields import (
    boolean,
    date,
    floating,
    integer,
    keyword,
    tags,
    text,
    vector,
)
from mesh.client.search.requests import CollectionInfo, Hit, Hits, Leg, Loaded, Written

__all__ = [
    "AsyncSearch",
    "CollectionInfo",
    "Hit",
    "Hits",
    "Leg",
    "Loaded",
    "Search",
    "Written",
    "boolean",
    "date",
    "floating",
    "integer",
    "keyword",
    "tags",
    "text",
    "vector",
]

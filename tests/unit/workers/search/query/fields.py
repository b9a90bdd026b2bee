"""A schema with a field of every kind."""

from __future__ import annotations

from workers.search.schema import parse

SCHEMA = parse(
    {
        "title": "text",
        "author": {"kind": "text", "exact": True},
        "标题": "text",
        "status": "keyword",
        "tags": "tags",
        "stock": "integer",
        "price": "float",
        "made": "date",
        "sold": "boolean",
        "look": {"kind": "vector", "dimension": 2},
        "range": "integer",
    }
)

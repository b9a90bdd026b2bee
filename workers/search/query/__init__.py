"""Queries: from what a caller writes to a tree of nodes. Nothing here touches an index."""

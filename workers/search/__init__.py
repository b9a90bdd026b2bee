"""The search service: documents that are found by their words, their values and their vectors."""

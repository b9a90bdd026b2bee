"""The vector index of a field: immutable segments and a small fresh part, both derived."""

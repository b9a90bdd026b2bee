"""The broker: a pure routing core and a thin server around it; runs as a process of its own."""

import mesh as _mesh  # noqa: F401 - first: it decides which modules run compiled

"""The built-in services, and the store that they share. They import `mesh`, never `broker`."""

import mesh as _mesh  # noqa: F401 - first: it decides which modules run compiled

"""`python -m mesh.cli`: the same as `sage-mesh`."""

from __future__ import annotations

from mesh.cli import main

if __name__ == "__main__":
    main()

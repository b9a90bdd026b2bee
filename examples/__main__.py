"""`python -m examples`: the mesh's real jobs, one after the other. Exits with 1 if one went wrong.

Arguments are those of `examples.textmine`.
"""

from __future__ import annotations

import sys

from examples import wholemesh
from examples.textmine.__main__ import main as textmine


def main() -> int:
    """Run both jobs; the exit code."""
    code = textmine(sys.argv[1:])
    print(flush=True)
    return code or wholemesh.main([])


if __name__ == "__main__":
    sys.exit(main())

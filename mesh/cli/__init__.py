"""The `sage-mesh` command. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line; exits 0 if all went well, 1 if something failed, 2 on wrong usage."""
    from mesh.cli.app import app

    app(prog_name="sage-mesh")

"""Become another program that the kernel ends when the parent is gone. Linux only.

Run as a file, `python -I -S leash.py PARENT_PID PROGRAM ARGUMENT...`, in front of a child process
that must not outlive its parent, even if that one is killed. `exec` keeps both the process id and
the order to the kernel.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, program: list[str]) -> None:
    """Tie this process to `parent`, then become `program`."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the order was given
        sys.exit(1)
    os.execv(program[0], program)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])

"""Signals to a process that serves."""

from __future__ import annotations

import signal
import subprocess
import sys

# Each signal comes at another point of a wait. With a lock that the thread may hold, most hang.
WAITING = """
import signal
from mesh.service.process import Stopping

for number in range(300):
    stopping = Stopping()
    signal.signal(signal.SIGALRM, stopping.on_signal)
    signal.setitimer(signal.ITIMER_REAL, 0.0005 + number * 1e-6)
    while not stopping.wait(0.0):
        pass
    assert stopping.wait(30.0)
print("done")
"""
TWICE = """
import os, signal
from mesh.service.process import Stopping

stopping = Stopping()
signal.signal(signal.SIGTERM, stopping.on_signal)
for _ in range(2):
    os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_signal_is_noted_whatever_the_thread_is_doing() -> None:
    run = subprocess.run(
        [sys.executable, "-c", WAITING], capture_output=True, text=True, timeout=30
    )
    assert run.stdout == "done\n", run.stderr


def test_the_second_signal_ends_the_process() -> None:
    run = subprocess.run([sys.executable, "-c", TWICE], timeout=30)
    assert run.returncode == 128 + signal.SIGTERM

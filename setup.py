"""Adds the compiled parts to what pyproject.toml declares. All of them are optional.

Without Cython or a working C compiler the package installs all the same: the frame pump has a
twin in Python, and the other modules here are plain Python files that Cython compiles as they
stand, with the types in the `.pxd` file beside each. `sage-mesh doctor` tells what is in use, and
why.
"""

from __future__ import annotations

import os

from setuptools import Extension, setup

TRANSPORT = (
    "mesh/transport/_header.pyx",
    "mesh/transport/_pump.pyx",
    "mesh/transport/_stream.pyx",
)
COMPILED_AS_THEY_STAND = (
    "mesh/protocol/messages.py",
    "mesh/protocol/native.py",
    "mesh/protocol/payload.py",
    "mesh/resilience/breaker.py",
    "mesh/resilience/budget.py",
    "mesh/monitoring/histogram.py",
    "mesh/ending.py",
    "mesh/client/calls.py",
    "mesh/client/timers.py",
    "mesh/client/links.py",
    "mesh/client/core.py",
    "mesh/client/wire.py",
    "mesh/client/base.py",
    "mesh/client/aio_driver.py",
    "mesh/client/awaited.py",
    "mesh/context.py",
    "mesh/service/links.py",
    "mesh/service/requests.py",
    "mesh/service/session.py",
    "mesh/service/invoke.py",
    "mesh/service/lanes.py",
    "mesh/protocol/checks.py",
    "mesh/protocol/storage.py",
    "mesh/protocol/memory.py",
    "broker/state.py",
    "broker/queues.py",
    "broker/router.py",
    "broker/server.py",
    "workers/acts.py",
    "workers/store/checksum.py",
    "workers/store/tables.py",
    "workers/store/dedup.py",
    "workers/memory/operations.py",
    "workers/memory/records.py",
    "workers/memory/view.py",
    "workers/memory/locks.py",
    "workers/memory/change.py",
    "workers/memory/running.py",
    "workers/memory/repeats.py",
    "workers/memory/outcomes.py",
    "workers/memory/verbs.py",
    "workers/memory/backends/lmdbtables.py",
    "workers/memory/eviction/s3fifo.py",
    "workers/storage/records.py",
    "workers/storage/operations.py",
    "workers/storage/view.py",
    "workers/storage/change.py",
    "workers/storage/running.py",
    "workers/storage/verbs.py",
)


def extensions() -> list[Extension]:
    """The compiled modules; none where Cython is missing, fewer where the compiler fails."""
    try:
        from Cython.Build import cythonize

        modules: list[Extension] = cythonize(
            [
                Extension(path.rpartition(".")[0].replace("/", "."), [path])
                for path in (*TRANSPORT, *COMPILED_AS_THEY_STAND)
            ],
            # Annotations speak of interfaces (a Sequence); the .pxd files say what is what.
            compiler_directives={"language_level": 3, "annotation_typing": False},
        )
    except Exception as error:
        print(f"warning: nothing is compiled ({error!r}); the same code runs as plain Python")
        return []
    for module in modules:
        module.optional = True  # cythonize does not keep it
    return modules


setup(ext_modules=extensions(), options={"build_ext": {"parallel": os.cpu_count() or 1}})

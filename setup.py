"""Adds the one compiled part, the frame pump, to what pyproject.toml declares.

The pump is optional: without Cython or a working C compiler the package installs all the same and
uses the pump's twin in Python. `sage-mesh doctor` tells which one is in use, and why.
"""

from __future__ import annotations

from setuptools import Extension, setup

SOURCE = "mesh/transport/_pump.pyx"


def extensions() -> list[Extension]:
    """The pump, or nothing where Cython is missing; `optional` covers a failing compiler."""
    try:
        from Cython.Build import cythonize

        pump = Extension("mesh.transport._pump", [SOURCE], optional=True)
        modules: list[Extension] = cythonize([pump])
        for module in modules:
            module.optional = True  # cythonize does not keep it
    except Exception as error:
        # Whatever went wrong, the twin in Python does the same work: say so and go on.
        print(f"warning: the frame pump is not compiled ({error!r}); its Python twin will be used")
        return []
    return modules


setup(ext_modules=extensions())

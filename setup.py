"""Adds the compiled parts to what pyproject.toml declares. All of them are optional.

Without Cython or a working C compiler the package installs all the same: the frame pump and the
table of stems have twins in Python, and the other modules here are plain Python files that Cython
compiles as they stand, with the types in the `.pxd` file beside each; `mesh/compiled.py` names
them. `sage-mesh doctor` tells what is in use, and why.
"""

from __future__ import annotations

import os
import runpy

from setuptools import Extension, setup

IN_CYTHON = (
    "mesh/transport/_header.pyx",
    "mesh/transport/_pump.pyx",
    "mesh/transport/_stream.pyx",
    "workers/search/text/_stems.pyx",
)


def as_they_stand() -> list[str]:
    """The Python files that are compiled."""
    names = runpy.run_path("mesh/compiled.py")["NAMES"]
    return [name.replace(".", "/") + ".py" for name in names]


def extensions() -> list[Extension]:
    """The compiled modules; none where Cython is missing, fewer where the compiler fails.

    None with `SAGE_COMPILE=no` in the environment, too: `make install` compiles in a step of its
    own, which leaves alone what has not changed.
    """
    if os.environ.get("SAGE_COMPILE") == "no":
        return []
    try:
        from Cython.Build import cythonize

        modules: list[Extension] = cythonize(
            [
                Extension(path.rpartition(".")[0].replace("/", "."), [path])
                for path in (*IN_CYTHON, *as_they_stand())
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

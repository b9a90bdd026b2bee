"""Compiles `_load.pyx` when it is first needed, and again when it has changed.

The result lies in `build/` beside this file, or in the temporary directory where that cannot be
written.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

SOURCE = Path(__file__).with_name("_load.pyx")


def load() -> ModuleType:
    """The compiled module.

    Raises:
        RuntimeError: it cannot be built here; the message says what is missing.
    """
    import zmq.backend.cython  # noqa: F401  # libzmq has to be loaded before the module looks for it

    target = _target()
    if not target.exists():
        _compile(target)
    spec = importlib.util.spec_from_file_location("_load", target)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _target() -> Path:
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    folder = SOURCE.parent / "build"
    try:
        folder.mkdir(exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        folder = Path(tempfile.gettempdir()) / f"mesh-bench-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise RuntimeError(f"{folder} belongs to somebody else")
    return folder / digest / f"_load{sysconfig.get_config_var('EXT_SUFFIX')}"


def _compile(target: Path) -> None:
    try:
        from Cython.Build import cythonize
        from setuptools import Distribution, Extension  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise RuntimeError(
            f"raw load needs Cython and setuptools ({error}); pip install Cython setuptools"
        ) from None
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / SOURCE.name
        copy.write_bytes(SOURCE.read_bytes())
        extension = Extension("_load", [str(copy)], extra_compile_args=["-O2"])
        compile_all: Any = cythonize
        modules = compile_all([extension], build_dir=scratch, quiet=True)
        distribution = Distribution({"name": "_load", "ext_modules": modules})
        command = distribution.get_command_obj("build_ext")
        command.build_lib = scratch
        command.build_temp = scratch
        try:
            command.ensure_finalized()
            command.run()
        except Exception as error:
            raise RuntimeError(f"raw load needs a C compiler: {error}") from None
        built = next(Path(scratch).glob("_load*.so"))
        target.parent.mkdir(parents=True, exist_ok=True)
        waiting = target.with_suffix(f".{os.getpid()}")
        waiting.write_bytes(built.read_bytes())
        waiting.replace(target)
        print(f"compiled {target}", file=sys.stderr)

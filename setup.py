"""Builds the compiled modules.  Everything else about the package is in pyproject.toml.

Switches, read from the environment when building:
    FASTNL_DEBUG=1          -O0 -g and Cython's own checks of indexes and None
    FASTNL_SANITIZE=...     -fsanitize=..., e.g. address,undefined
    FASTNL_COVERAGE=1       line tracing, so that coverage.py sees the .pyx and .pxi files
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

debug = bool(os.environ.get("FASTNL_DEBUG"))
sanitize = os.environ.get("FASTNL_SANITIZE", "")
coverage = bool(os.environ.get("FASTNL_COVERAGE"))

cflags = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers"]
cflags += ["-O0", "-g"] if debug else ["-O2", "-g1"]
ldflags: list[str] = []
if sanitize:
    cflags += [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-g"]
    ldflags += [f"-fsanitize={sanitize}"]

directives = {"linetrace": coverage, "boundscheck": debug, "nonecheck": debug} if debug or coverage else {}
macros = [("_GNU_SOURCE", None)]
if coverage:
    macros += [("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "0")]

setup(
    ext_modules=cythonize(
        [
            Extension(
                f"fastnl.{name}",
                [f"src/fastnl/{name}.pyx"],
                define_macros=macros,
                extra_compile_args=cflags,
                extra_link_args=ldflags,
            )
            for name in ("_nl", "_afpacket")
        ],
        include_path=["src"],
        compiler_directives=directives,
        force=bool(debug or sanitize or coverage),
    )
)

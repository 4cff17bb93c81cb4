"""Lets BasicSR 1.4.2 build on Python 3.13 and newer; Python imports it at start-up if this folder is on PYTHONPATH.

    PYTHONPATH="$PWD/install" pip install --no-build-isolation .

BasicSR's setup.py reads its version by `exec` inside a function and looks for the name in `locals()`. Since Python 3.13
(PEP 667) such an `exec` writes to a copy of them, and the build ends with `KeyError: '__version__'`.
"""

import builtins
import sys

if sys.version_info >= (3, 13):
    builtin_exec = builtins.exec

    def exec_in_caller(source, globals=None, locals=None, **closure):
        """`exec`, which without namespaces writes to the variables of its caller."""
        if globals is None:
            caller = sys._getframe(1)
            globals = caller.f_globals
            locals = caller.f_locals if locals is None else locals
        builtin_exec(source, globals, locals, **closure)

    builtins.exec = exec_in_caller

"""Names that a package hands on from its modules, each imported when it is first asked for.

A room's modules need different libraries (PyTorch, ONNX Runtime, lm-eval): who asks for one name
must not need them all.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # `import llx` comes before all else, and `typing` takes its time
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def hand_on(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package (PEP 562).

    `modules`: public names, separated by spaces, by the module of the package that has them. The
    same names stand under `if TYPE_CHECKING:` for type checkers, which a test compares.
    """
    places = {name: module for module, names in modules.items() for name in names.split()}

    def __getattr__(name: str) -> object:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        import importlib

        value = getattr(importlib.import_module(f"{package}.{places[name]}"), name)
        module: object = sys.modules.get(f"{package}.{name}")
        if callable(module):  # a package that is called as the function of its name, always
            value = module
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:
        of_modules = {name for name in vars(sys.modules[package]) if name.startswith("__")}
        return sorted(of_modules | places.keys())

    return __getattr__, __dir__, sorted(places)

"""Which of lm-eval's own functions a task file of somebody else may use: those that only compute.

lm-eval's functions were written for lm-eval's data. Some hand what they are given to `eval`, start
programs, fetch scripts or run what a model wrote: with a task file that names other data, or leaves
out `unsafe_code`, that is a way to run code. So the Python file of a function is read, not
imported, and it may import and name only what is listed here.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

# What only computes, and lm-eval's own parts that do.
MODULES = {
    *("__future__", "abc", "ast", "collections", "collections.abc", "copy", "dataclasses"),
    *("datasets", "enum", "functools", "html", "itertools", "json", "logging", "math", "numpy"),
    *("operator", "random", "re", "sklearn", "sklearn.metrics", "statistics", "string"),
    *("textwrap", "typing", "typing_extensions", "unicodedata"),
    *("lm_eval.utils", "lm_eval.api.metrics", "lm_eval.api.registry", "lm_eval.api.filter"),
    *("lm_eval.filters.extraction", "lm_eval.filters.selection", "lm_eval.filters"),
    *("lm_eval.api.instance", "lm_eval.api.samplers"),
}
# Words that none of it may say, whatever they are of: a name, an attribute, or what is imported.
WORDS = {
    *("eval", "exec", "compile", "open", "input", "breakpoint", "getattr", "setattr", "vars"),
    *("locals", "system", "popen", "Popen", "spawn", "fork", "subprocess", "import_module"),
    *("load_dataset", "load_from_disk", "load_dataset_builder", "from_generator", "from_file"),
    *("load", "fromfile", "memmap", "genfromtxt", "loadtxt", "save", "savez", "tofile", "ctypes"),
    *("f2py", "os", "sys", "builtins", "pickle", "load_yaml_config", "import_function", "joblib"),
    *("fetch_openml", "fetch_file", "load_files", "load_svmlight_file", "show_versions"),
}


@cache
def runs_code(path: Path) -> str | None:
    """What in a Python file does more than compute, in a word; None where nothing does."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError) as error:
        return type(error).__name__
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            words = [alias.name for alias in node.names]
            foreign = next((name for name in words if name not in MODULES), None)
        elif isinstance(node, ast.ImportFrom):
            words = [alias.name for alias in node.names]
            foreign = None if node.module in MODULES and not node.level else str(node.module)
            foreign = foreign or next((name for name in words if name in WORDS), None)
        elif isinstance(node, ast.Attribute):
            loads_json = isinstance(node.value, ast.Name) and node.value.id == "json"
            named = node.attr in WORDS or (node.attr[:2] == "__" and node.attr != "__name__")
            compiles = node.attr == "compile"  # a pattern, where the name itself is refused
            foreign = node.attr if named and not loads_json and not compiles else None
        elif isinstance(node, ast.Name):
            hidden = node.id[:2] == "__" and node.id not in ("__name__", "__file__")
            foreign = node.id if node.id in WORDS or hidden else None
        else:
            foreign = None
        if foreign is not None:
            return foreign
    return None

"""lm-evaluation-harness's tasks by name, and what keeps them from running code."""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import importlib.metadata
from collections.abc import Iterator
from typing import Any

import lm_eval.api.task
import lm_eval.utils
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from lm_eval.api.registry import metric_registry
from lm_eval.tasks import TaskManager

from llx.bench.tasks.documents import LimitedTemplates, sandbox
from llx.bench.tasks.files import findings_of, package, refuse_code
from llx.errors import BadInput, Lacking, LlxError, one_line
from llx.evaluation import EvalRequest
from llx.processes import environment

# What another's file may change in a task of lm-eval's that works on no other data for it.
HARMLESS = {"task", "task_alias", "tag", "group", "group_alias", "num_fewshot", "metadata"}
HARMLESS |= {"description", "aggregate_metric_list"}
ALLOW_CODE_EVAL = "HF_ALLOW_CODE_EVAL"  # what the metric code_eval wants to see


def load_tasks(request: EvalRequest) -> dict[str, Any]:
    """The tasks by name, with their data. Run it within `contained`.

    Raises `BadInput` for an unknown task and for one that would run code, and `Lacking` where data
    cannot be had.
    """
    if request.include_path and not request.allow_code:
        refuse_code(request.include_path)
    manager, names = _found(request)
    if not request.allow_code:
        _refuse_unsafe(manager, names)
        _judge_each(manager)
    chosen: list[Any] = []
    for name in names:
        loaded = _load_one(manager, name)
        groups = loaded.get("groups", {})
        chosen += [groups[name]] if name in groups else loaded["tasks"].values()
    try:
        loaded = manager.load(chosen)
    except ValueError as error:
        raise BadInput(one_line(error), "name each task once, by itself or by a group") from None
    for name, task in loaded["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False) and not request.allow_code:
            raise _runs_code(name, "unsafe_code")
    return dict(loaded)


def _found(request: EvalRequest) -> tuple[TaskManager, list[str]]:
    """A manager that knows the tasks, and their names, patterns resolved.

    lm-eval reads some 15,000 files to know its own tasks: not where the folder has all that is
    asked for.
    """
    if request.include_path:
        own = _manager(include_path=str(request.include_path), include_defaults=False)
        if set(request.tasks) <= set(own.all_subtasks):
            return own, list(dict.fromkeys(request.tasks))
    include = str(request.include_path) if request.include_path else None
    manager = _manager(include_path=include)
    names: list[str] = []
    for asked in request.tasks:
        matches = fnmatch.filter(manager.all_tasks, asked)
        if not matches:
            near = difflib.get_close_matches(asked, manager.all_tasks, 3)
            where = " or in --include-path" if include else ""
            raise BadInput(
                f"no task in lm-eval {importlib.metadata.version('lm-eval')}{where} is named "
                f"{asked!r}",
                f"did you mean {', '.join(near)}?" if near else "`lm-eval ls tasks` lists them",
            )
        names += matches
    return manager, list(dict.fromkeys(names))


def _manager(**arguments: Any) -> TaskManager:
    try:
        return TaskManager(**arguments)
    except Exception as error:  # names of several types cannot be sorted, and such
        raise BadInput(
            f"the files of --include-path make no tasks ({type(error).__name__}: "
            f"{one_line(error)})",
            "mend their names, tags and groups: each is one word",
        ) from None


def _refuse_unsafe(manager: TaskManager, names: list[str]) -> None:
    """Raise `BadInput` where a task, or one of a group, says of itself that it runs code.

    Before it is loaded: such a task may fetch a script as it is.
    """
    todo, seen = list(names), set[str]()
    while todo:
        name = todo.pop()
        entry = manager.task_index.get(name)
        if entry is None or name in seen:
            continue
        seen.add(name)
        if entry.cfg is None:  # a tag
            todo += entry.tags
            continue
        if entry.cfg.get("unsafe_code", False) is not False:
            raise _runs_code(name, "unsafe_code")
        members = entry.cfg.get("task")
        todo += _names_in(members) if isinstance(members, list) else []


def _judge_each(manager: TaskManager) -> None:
    """Judge every task as it is made, before its functions are imported: whatever has led to it.

    A group can name a task of lm-eval's and give it other data, or unsafe_code as false.
    """
    factory = manager._factory
    load = factory._load_full_config

    def judged(entry: Any, overrides: dict[str, Any] | None = None) -> Any:
        path = entry.yaml_path.resolve() if entry.yaml_path else None
        changed = set(overrides or ()) - HARMLESS
        if changed and path is not None and path.is_relative_to(package()):
            for finding in findings_of(path):
                raise _runs_code(entry.name, f"{finding.what} and other {min(changed)}")
        if (entry.cfg or {}).get("unsafe_code", False) is not False:  # whatever is put over it
            raise _runs_code(entry.name, "unsafe_code")
        made = load(entry, overrides)
        if made.get("unsafe_code", False) is not False:
            raise _runs_code(entry.name, "unsafe_code")
        return made

    factory._load_full_config = judged


def _names_in(members: list[Any]) -> Iterator[str]:
    for member in members:
        if isinstance(member, str):
            yield member
        elif isinstance(member, dict):
            inner = member.get("group", member.get("task"))
            if isinstance(inner, str):
                yield inner
            if isinstance(member.get("task"), list):
                yield from _names_in(member["task"])


def _runs_code(task: str, what: str) -> BadInput:
    return BadInput(
        f"task {task} has {what}: it runs code, or what the model writes",
        "allow that with --allow-code, in a machine that may be lost",
    )


def _load_one(manager: TaskManager, name: str) -> Any:
    try:
        return manager.load([name])
    except LlxError:
        raise
    except ImportError as error:
        raise Lacking(
            f"task {name} needs {error.name}, not installed here", f"pip install {error.name}"
        ) from None
    except FileNotFoundError as error:
        if not isinstance(error, DatasetNotFoundError):
            raise BadInput(
                f"the data of task {name} is not there ({one_line(error)})",
                "mend data_files in its YAML; paths go from the working directory",
            ) from None
        raise _unreachable(name, error) from None
    except (DatasetsError, OSError) as error:
        raise _unreachable(name, error) from None
    except Exception as error:
        raise BadInput(
            f"task {name} cannot be made ({type(error).__name__}: {one_line(error)})",
            "mend its YAML",
        ) from None


def _unreachable(name: str, error: Exception) -> Lacking:
    return Lacking(
        f"the data of task {name} cannot be had ({one_line(error)})",
        "check its dataset_path and the network; without one, bring the cache (HF_HOME) from a "
        "machine that has run it",
    )


@contextlib.contextmanager
def contained(allow_code: bool, own_files: bool = False) -> Iterator[None]:
    """Keep task files from running code while tasks are loaded and run.

    lm-eval renders templates without a sandbox, and looks for a metric that it does not know in
    `evaluate`, which runs a script of that name from the hub or from disk. `own_files`: there are
    task files that are not lm-eval's; then templates run in a limited process.
    """

    def known_metric(name: str, hf_evaluate_metric: bool = False) -> Any:
        if hf_evaluate_metric or name not in metric_registry:
            raise BadInput(
                f"the metric {name!r} is a script that `evaluate` would run",
                "allow that with --allow-code, or choose a metric of lm-eval",
            )
        return metric(name)

    metric, template = lm_eval.api.task.get_metric, lm_eval.utils.env
    limited = LimitedTemplates() if own_files and not allow_code else None
    lm_eval.utils.env = limited or sandbox(template.filters)
    if not allow_code:
        lm_eval.api.task.get_metric = known_metric
    try:
        with environment({ALLOW_CODE_EVAL: "1" if allow_code else None}):
            yield
    finally:
        if limited is not None:
            limited.close()
        lm_eval.utils.env, lm_eval.api.task.get_metric = template, metric

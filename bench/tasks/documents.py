"""Templates of lm-eval's tasks over documents: where they can do no harm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any

import numpy as np
from jinja2 import BaseLoader, Environment, StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llx.errors import BadInput
from llx.template_process import TYPED
from llx.templates import TemplateFailed, TemplateProcess

NOW = datetime(2000, 1, 1)  # which these templates are not told


def sandbox(filters: Mapping[str, Any]) -> Environment:
    """lm-eval's own environment of templates in a sandbox, in this process."""
    made = ImmutableSandboxedEnvironment(
        loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True
    )
    made.filters.update(filters)
    return made


class LimitedTemplates:
    """In place of that environment, for templates that may take for ever, or all memory.

    They are rendered by a process of their own, which finds what lm-eval would give them.
    """

    def __init__(self) -> None:
        self._process = TemplateProcess(documents=True)

    def from_string(self, source: str) -> LimitedTemplate:
        """A template, which is compiled when it is rendered."""
        return LimitedTemplate(self._process, source)

    def close(self) -> None:
        """End the process."""
        self._process.close()


@dataclass(frozen=True)
class LimitedTemplate:
    """One template."""

    process: TemplateProcess
    source: str

    def render(self, **document: Any) -> str:
        """Its text over a document. Raises jinja2's `TemplateError` where it has none.

        Raises `BadInput` where the document holds what is no data.
        """
        try:
            return self.process.render(self.source, _plain(document), NOW)
        except TemplateFailed as error:
            raise TemplateError(str(error)) from None


def _plain(value: Any) -> Any:
    """A value as JSON has it; what it has not by its type's name, which the process knows."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, dict) and TYPED not in value and all(type(k) is str for k in value):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, np.ndarray)):
        return [_plain(part) for part in value]
    if type(value) is tuple:
        return {TYPED: "tuple", "value": [_plain(part) for part in value]}
    for kind in (datetime, date, time):  # a datetime is a date as well
        if isinstance(value, kind):
            return {TYPED: kind.__name__, "value": value.isoformat()}
    raise BadInput(
        f"a document of the task holds a {type(value).__name__}, which no template is given",
        "take text and numbers, or allow what the task does with --allow-code",
    )

"""The program of the process that renders templates: see `llx.templates`, which starts it.

It runs by itself (`python -I -S template_process.py …`), on the standard library and jinja2 alone,
and answers lines of JSON. What a chat template finds here is what transformers gives it
(`apply_chat_template`, release 5): a checkpoint's template was written against that. The templates
of lm-eval's task files find what they do there, and PyYAML reads the files themselves.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from datetime import date, datetime, time
from typing import IO, Any

if __name__ == "__main__":  # started without site-packages, it is told where jinja2 lies
    sys.path += json.loads(sys.argv[1])["path"]

import jinja2.constants
import jinja2.debug
import jinja2.ext
from jinja2 import Environment, StrictUndefined, Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

EXIT_MEMORY = 77  # what asks for more memory than there is ends with this
MOST_WORDS = 1000  # characters of an error's message
MOST_TEMPLATES = 32  # that are kept compiled
MOST_NODES = 50_000  # of a YAML file, each alias counted as what it stands for
MOST_DEPTH = 64  # of its nodes in one another: libyaml's reader recurses without a limit
TYPED = "\0type"  # the key of what JSON has not, beside its "value"
# What jinja2 and Python import when a template first uses it: no file is opened later.
WARM_UP = "{{ '\\u00e9' | striptags | wordwrap }}{{ [1] | pprint }}{{ lipsum(n=1) }}{{ 1 // 0 }}"


class Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}`: marks what an assistant says, and writes it."""

    tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """A call of `_written` with the block as its body."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_written"), [], [], body).set_lineno(line)

    def _written(self, caller: Callable[[], str]) -> str:
        return caller()


class Dictionaries:
    """The global `dict`: it makes dictionaries, and has nothing else of the class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        """As `dict`."""
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        """As `dict.fromkeys`."""
        return dict.fromkeys(*args, **kwargs)


class PlainNamespace(Namespace):
    """jinja2's `namespace`, which takes no name that begins with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # `self` may be one of the names
        self, *rest = args
        values = dict(*rest, **kwargs)
        for name in values:
            _require_plain(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _require_plain(name)
        super().__setitem__(name, value)


def _require_plain(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no name that begins with an underscore: {name!r}")


def raise_exception(message: Any) -> None:
    """How a template refuses a conversation."""
    raise TemplateError(message)


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """A value as JSON, with no character escaped for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def environment(now: Callable[[], datetime]) -> Environment:
    """Where chat templates are compiled and rendered. `now` is the time that they are told."""

    def strftime_now(format: str) -> str:  # noqa: A002  # a template may name it
        return now().strftime(format)

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = tojson
    made.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": strftime_now,
        "dict": Dictionaries(),
        "namespace": PlainNamespace,
    }
    return made


def regex_replace(string: str, pattern: str, repl: str, count: int = 0) -> str:
    """lm-eval's filter of this name."""
    return re.sub(pattern, repl, string, count=count)


def document_environment() -> Environment:
    """Where the templates of lm-eval's tasks are rendered: with what it gives them itself."""
    made = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    made.filters["regex_replace"] = regex_replace
    return made


def typed(value: dict[str, Any]) -> Any:
    """An object of a request's JSON as the value that it stands for."""
    kind = value.get(TYPED)
    if kind is None:
        return value
    if kind == "tuple":
        return tuple(value["value"])
    kinds: dict[str, Any] = {"datetime": datetime, "date": date, "time": time}
    return kinds[kind].fromisoformat(value["value"])


def yaml_nodes(data: bytes) -> str:
    """The nodes of a YAML file as JSON, with nothing constructed and every alias written out.

    A node is [kind, tag, line, value]; kind "s" has its text, "q" nodes, "m" pairs of nodes.
    """
    import yaml

    loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
    count = 0

    def written(node: Any, depth: int) -> list[Any]:
        nonlocal count
        count += 1
        if count > MOST_NODES or depth > MOST_DEPTH:
            raise ValueError("it is nested too deeply, in itself, or says too much by its aliases")
        about = [node.tag, node.start_mark.line]
        if isinstance(node, yaml.ScalarNode):
            return ["s", *about, node.value]
        if isinstance(node, yaml.SequenceNode):
            return ["q", *about, [written(part, depth + 1) for part in node.value]]
        pairs = [[written(part, depth + 1) for part in pair] for pair in node.value]
        return ["m", *about, pairs]

    top = yaml.compose(data, Loader=loader)
    return json.dumps(None if top is None else written(top, 0))


class Renderer:
    """Compiles templates, and keeps them while the next conversations are of the same."""

    def __init__(self, most_characters: int, documents: bool = False) -> None:
        self._most = most_characters
        self._now = datetime.min
        chat = None if documents else environment(lambda: self._now)
        self._environment = chat or document_environment()
        self._templates: dict[str, Template] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, str]:
        """The text of a conversation, or why there is none.

        The request: `source`, `now` (ISO 8601) and `variables`, null to compile only. The answer:
        `text`; `refused`, what the template itself says against it; or `error`. A request of
        `yaml`, the bytes of a file as Latin-1, has the file's nodes for its text.
        """
        try:
            if "yaml" in request:
                return {"text": yaml_nodes(request["yaml"].encode("latin-1"))}
            template = self._compiled(request["source"])
            if request["variables"] is None:
                return {"text": ""}
            self._now = datetime.fromisoformat(request["now"])
            text = template.render(request["variables"])
        except MemoryError:
            raise
        except Exception as error:
            kind = "refused" if type(error) is TemplateError else "error"
            return {kind: _words(error)}
        if len(text) > self._most:
            return {"error": f"it renders {len(text)} characters, and {self._most} are allowed"}
        try:
            text.encode()
        except UnicodeEncodeError:
            return {"error": "it renders half of a surrogate pair, which is no character"}
        return {"text": text}

    def _compiled(self, source: str) -> Template:
        if source not in self._templates:
            if len(self._templates) >= MOST_TEMPLATES:
                self._templates.clear()
            self._templates[source] = self._environment.from_string(source)
        return self._templates[source]


def _words(error: Exception) -> str:
    """What an error says, in words that are text, and not too many."""
    try:
        words = str(error.message if isinstance(error, TemplateSyntaxError) else error)
    except Exception:
        words = ""
    if isinstance(error, TemplateSyntaxError):
        words += f", line {error.lineno}"
    elif not isinstance(error, TemplateError):
        words = f"{type(error).__name__}: {words}"
    return words[:MOST_WORDS].encode(errors="replace").decode() or type(error).__name__


def limit(memory_bytes: int) -> None:
    """Give up, for this process, what no template needs: memory, files, other processes."""
    try:
        import resource
    except ImportError:  # no such limits on this system: those of time and output hold
        return
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        _lower(resource.RLIMIT_AS, used + memory_bytes)
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):
        _lower(kind, 0)
    _lower(resource.RLIMIT_NOFILE, 3)  # standard input, output and error are open


def _lower(kind: int, most: int) -> None:
    import resource

    with contextlib.suppress(ValueError, OSError):  # lower already, or not lowered here
        resource.setrlimit(kind, (most, most))


def serve(requests: IO[bytes], answers: IO[bytes], settings: dict[str, Any]) -> None:
    """Answer every request, in `cpu_s` seconds each: the signal of the timer ends the process."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # whatever the parent made of it
    renderer = Renderer(settings["most_characters"], settings["documents"])
    renderer.answer({"source": WARM_UP, "variables": {}, "now": "2000-01-01"})
    if settings["documents"]:
        renderer.answer({"yaml": "a: [1]"})
    limit(settings["memory_bytes"])
    for line in requests:
        signal.setitimer(signal.ITIMER_PROF, settings["cpu_s"])
        answer = json.dumps(renderer.answer(json.loads(line, object_hook=typed))).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(answer + b"\n")
        answers.flush()


if __name__ == "__main__":
    try:
        serve(sys.stdin.buffer, sys.stdout.buffer, json.loads(sys.argv[1]))
    except MemoryError:
        os._exit(EXIT_MEMORY)

"""Templates are programs of whoever made a checkpoint or a task: they run where they do no harm.

Jinja's sandbox keeps a template from Python, but not from taking for ever or all memory. So it runs
in a process of its own (`llx.template_process`) that is limited in processor time, memory and
output, inherits neither files nor environment, and is told everything in JSON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import msgspec

from llx.errors import EXIT_BUG, BadInput, LlxError
from llx.processes import how_it_ended

MOST_TEMPLATE_BYTES = 1 << 20  # the longest of a well-known model has some 30 kB
PROGRAM = Path(__file__).with_name("template_process.py")
EXIT_MEMORY = 77  # as the program has it
# What an interpreter may need to start, and where it is: the rest of the environment is not told.
KEPT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "SYSTEMROOT", "TZ")


class TemplateFailed(Exception):
    """A template has no text for a conversation, for a reason that the message names."""


class TemplateRefused(TemplateFailed):
    """The template itself says so, by `raise_exception`; the message is its own."""


class _Died(LlxError):
    """The process ended in a way that is no template's doing."""

    exit_code = EXIT_BUG


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one rendering may take. `wall_s` holds where the process does not even get to run."""

    cpu_s: float = 2.0
    wall_s: float = 10.0
    memory_bytes: int = 256 << 20  # beyond what the process has when it starts
    most_characters: int = 4 << 20


class _Answer(msgspec.Struct, forbid_unknown_fields=True):
    text: str | None = None
    refused: str | None = None
    error: str | None = None


class TemplateProcess:
    """Renders templates, in a process that is started for the first and kept for the next.

    For one thread at a time. It ends with `close`, with the object, or with the program.
    `documents`: for the templates of lm-eval's task files, and for the files themselves.
    """

    def __init__(self, limits: Limits | None = None, documents: bool = False) -> None:
        self._limits = limits or Limits()
        self._documents = documents
        self._end: weakref.finalize[..., TemplateProcess] | None = None
        self._owner = 0

    def __enter__(self) -> TemplateProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process; another rendering starts a new one."""
        if self._end is not None:
            self._end()
            self._end = None

    def render(self, source: str, variables: Mapping[str, Any], now: datetime) -> str:
        """A template's text. Raises `TemplateFailed`, saying why, where it has none.

        `variables` are made of what JSON has; of anything else the template sees its type's name,
        as in transformers. `now` is what `strftime_now` tells.
        """
        return self._asked({"source": source, "variables": variables, "now": now.isoformat()})

    def compile(self, source: str) -> None:
        """Compile only. Raises `TemplateFailed` where the template is none."""
        self._asked({"source": source, "variables": None, "now": None})

    def yaml(self, data: bytes) -> Any:
        """A YAML file's nodes, with nothing constructed: see `template_process.yaml_nodes`.

        Raises `TemplateFailed` where it is none, or one that would take too much.
        """
        return msgspec.json.decode(self._asked({"yaml": data.decode("latin-1")}))

    def _asked(self, request: dict[str, Any]) -> str:
        try:
            text = json.dumps(request, ensure_ascii=False, default=_placeholder)
            data = text.encode() + b"\n"
        except UnicodeEncodeError:
            raise TemplateFailed("the conversation holds bytes that are not UTF-8") from None
        if self._end is None or self._owner != os.getpid() or self._process.poll() is not None:
            self._start()
        try:
            answer = self._exchanged(data)
        except TimeoutError:
            self.close()
            raise TemplateFailed(f"it had no end after {self._limits.wall_s:g} s") from None
        except (EOFError, ConnectionError):
            self._died()
        except msgspec.DecodeError as error:
            self.close()
            raise TemplateFailed(f"its process answered nonsense ({error})") from None
        except BaseException:
            self.close()  # Ctrl-C: half an answer may be on its way
            raise
        if answer.text is not None:
            return answer.text
        if answer.refused is not None:
            raise TemplateRefused(one_line(answer.refused))
        raise TemplateFailed(one_line(answer.error or "no reason given"))

    def _start(self) -> None:
        self.close()
        modules = ("jinja2", "markupsafe", *(("yaml",) if self._documents else ()))
        settings = {
            "path": _where(*modules),
            "documents": self._documents,
            **asdict(self._limits),
        }
        command = [sys.executable, "-I", "-S", "-B", "-X", "utf8"]
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [*command, str(PROGRAM), json.dumps(settings)],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env={name: os.environ[name] for name in KEPT if name in os.environ},
                    start_new_session=True,  # Ctrl-C is for the caller, who then closes
                )
        except OSError as error:
            ours.close()
            raise TemplateFailed(f"no process can be started for it ({error.strerror})") from None
        self._socket, self._owner = ours, os.getpid()
        self._end = weakref.finalize(self, _end, self._process, ours, self._owner)

    def _exchanged(self, data: bytes) -> _Answer:
        """Send a request and wait for its answer. Raises `TimeoutError`, or `EOFError`."""
        until = time.monotonic() + self._limits.wall_s
        self._socket.settimeout(self._limits.wall_s)
        self._socket.sendall(data)
        answer = bytearray()
        while not answer.endswith(b"\n"):
            self._socket.settimeout(max(until - time.monotonic(), 1e-3))
            part = self._socket.recv(1 << 16)
            # A character takes up to 12 bytes in JSON.
            if not part or len(answer) > 12 * self._limits.most_characters + (1 << 16):
                raise EOFError
            answer += part
        return msgspec.json.decode(answer, type=_Answer)

    def _died(self) -> NoReturn:
        """Raise what the end of the process means."""
        try:
            code: int | None = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            code = None
        self.close()
        if code == -signal.SIGPROF:
            raise TemplateFailed(f"it takes more than {self._limits.cpu_s:g} s") from None
        if code in (EXIT_MEMORY, -signal.SIGKILL):
            most = f"{self._limits.memory_bytes >> 20} MiB"
            raise TemplateFailed(f"it takes more than {most} of memory") from None
        if code is None or code < 0:
            raise TemplateFailed(f"its process {how_it_ended(code)}") from None
        raise _Died(
            f"the process that renders chat templates {how_it_ended(code)}",
            "report this, with the file that `llx doctor --bundle` writes",
        ) from None


def _end(process: subprocess.Popen[bytes], ours: socket.socket, owner: int) -> None:
    """It holds nothing that could be lost; a fork of its owner leaves it alone."""
    ours.close()
    if os.getpid() == owner:
        process.kill()
        process.wait()


def _where(*modules: str) -> list[str]:
    """The folders that modules are imported from."""
    specs = [importlib.util.find_spec(name) for name in modules]
    files = [spec.origin for spec in specs if spec is not None and spec.origin]
    return sorted({str(Path(file).absolute().parents[1]) for file in files})


def _placeholder(value: Any) -> str:
    return f"<{type(value).__name__}>"


def one_line(text: str) -> str:
    """Untrusted words for a terminal: one line, and nothing that would move its cursor."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def day_of(date: str | None) -> datetime:
    """The time that a template is told: now, or the beginning of a day, `YYYY-MM-DD`."""
    if date is None:
        return datetime.now()
    try:
        return datetime.strptime(date, "%Y-%m-%d")
    except (ValueError, TypeError):
        raise BadInput(
            f"--date {date!r} is no day of the calendar", "write it as YYYY-MM-DD: 2026-01-31"
        ) from None

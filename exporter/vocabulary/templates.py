"""Which chat template a checkpoint means, by the rules of transformers' `AutoTokenizer`.

A template is kept as it is. What is wrong with one is told as a warning and never stops an export:
the weights need none. One that does not compile goes into the artifact too, as `get_chat_template`
hands it out, and `--chat` says why it fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from llx.errors import LlxError
from llx.nearby import absence, is_broken_link
from llx.templates import MOST_TEMPLATE_BYTES, TemplateFailed, TemplateProcess, one_line

FILE = "chat_template.jinja"
MORE_FILES = "additional_chat_templates"  # a folder of NAME.jinja
OF_PROCESSORS = "chat_template.json"  # of vision models; no tokenizer reads it
SETTING = "tokenizer_config.json's chat_template"
DEFAULT = "default"
GGUF_KEY = "tokenizer.chat_template"
NONE_THEN = "the artifact has no chat template"


class _Unusable(ValueError):
    """No template for a reason that the message names, and what mends that."""


def chat_template_of(folder: Path, settings: Mapping[str, Any], warnings: list[str]) -> str | None:
    """The chat template of a Hugging Face folder, what `get_chat_template` returns there.

    Files come before the field of `settings`, tokenizer_config.json. Of several templates by name
    the one called `default` is meant. None where there is none, and where what is meant cannot be
    used: a line of `warnings` says why.
    """
    files = _files(folder)
    for path in (folder / FILE, *sorted((folder / MORE_FILES).glob("*.jinja"))):
        if is_broken_link(path):
            _warn(warnings, f"{path} {absence(path)}: it is not read")
    try:
        if files:
            path = _default(files, f"{FILE} and {MORE_FILES}")
            return _checked(_text(path), str(path.relative_to(folder)), warnings)
        if settings.get("chat_template") is not None:
            return _checked(_default(_named(settings["chat_template"]), SETTING), SETTING, warnings)
        if (folder / OF_PROCESSORS).is_file():
            raise _Unusable(f"{OF_PROCESSORS} is of a processor, and no tokenizer reads it")
    except _Unusable as error:
        _warn(warnings, f"{error}: {NONE_THEN}")
    return None


def gguf_template(fields: Mapping[str, Any], warnings: list[str]) -> str | None:
    """The chat template among a GGUF file's fields, read as `chat_template_of` reads its own.

    `tokenizer.chat_template` is the default; others have their names behind it. A value that is not
    UTF-8 is given as bytes.
    """
    prefix = f"{GGUF_KEY}."
    named = {name.removeprefix(prefix): v for name, v in fields.items() if name.startswith(prefix)}
    if GGUF_KEY in fields:
        named[DEFAULT] = fields[GGUF_KEY]
    if not named:
        return None
    try:
        template = _default(named, GGUF_KEY)
        if isinstance(template, bytes):
            template = _decoded(template, GGUF_KEY)
        return _checked(template, GGUF_KEY, warnings)
    except _Unusable as error:
        _warn(warnings, f"{error}: {NONE_THEN}")
        return None


def _files(folder: Path) -> dict[str, Path]:
    """Templates in files of their own, by name."""
    files = {DEFAULT: folder / FILE}
    for path in sorted((folder / MORE_FILES).glob("*.jinja")):
        files[path.name.removesuffix(".jinja")] = path
    return {name: path for name, path in files.items() if path.is_file()}


def _named(setting: Any) -> Mapping[Any, Any]:
    """The field's templates by name: it is a text, or a list or object of several."""
    if isinstance(setting, list):
        try:
            return {template["name"]: template["template"] for template in setting}
        except (TypeError, KeyError):
            raise _Unusable(f"{SETTING} is no list of names and templates") from None
    return setting if isinstance(setting, dict) else {DEFAULT: setting}


def _default(named: Mapping[Any, Any], where: str) -> Any:
    if DEFAULT not in named:
        names = ", ".join(sorted(str(name)[:40] for name in named)[:10]) or "no template"
        raise _Unusable(f"{where} names {names}, and none is called {DEFAULT}")
    return named[DEFAULT]


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MOST_TEMPLATE_BYTES:
            raise _Unusable(f"{path.name} is longer than {MOST_TEMPLATE_BYTES >> 20} MiB")
        data = path.read_bytes()
    except OSError as error:
        raise _Unusable(f"{path.name} cannot be read ({error.strerror})") from None
    # Line ends as a file's text has them in Python, and so in transformers.
    return _decoded(data, path.name).replace("\r\n", "\n").replace("\r", "\n")


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = f"byte {error.start} is 0x{data[error.start]:02x}"
        raise _Unusable(f"{where} is not UTF-8 ({byte})") from None


def _checked(template: Any, where: str, warnings: list[str]) -> str:
    """The template, where it is a text that can be kept; whether it compiles is told."""
    if not isinstance(template, str):
        raise _Unusable(f"{where} is no text")
    try:
        length = len(template.encode())
    except UnicodeEncodeError:
        raise _Unusable(f"{where} holds half of a surrogate pair, which is no character") from None
    if length > MOST_TEMPLATE_BYTES:
        raise _Unusable(f"{where} is longer than {MOST_TEMPLATE_BYTES >> 20} MiB")
    if (problem := _problem(template)) is not None:
        _warn(warnings, f"{where} does not compile ({problem}): --chat will not work")
    return template


@lru_cache(maxsize=8)
def _problem(template: str) -> str | None:
    """Why a template does not compile: a process is started to find out."""
    try:
        with TemplateProcess() as process:
            process.compile(template)
    except (TemplateFailed, LlxError) as error:
        return str(error)
    return None


def _warn(warnings: list[str], line: str) -> None:
    if (line := one_line(line)) not in warnings:  # a source may be asked for its text twice
        warnings.append(line)

"""The shell of a page of HTML: what stands around the parts of each.

A page needs nothing beside itself, not even a network. What is given to it is untrusted: the
templates escape all, and a policy lets no script run but the page's own, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from llx.reports.html.charts import vega_script

TEMPLATES = Path(__file__).parent / "templates"


def rendered(template: str, command: str, specs: Mapping[str, Any], **parts: Any) -> str:
    """A page as text: a template that extends `shell.html`, and the plots' Vega-Lite by name."""
    scripts = [_text("page.js")]
    if specs:
        scripts.insert(0, script_text(vega_script()))
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.get_template(template).render(
        command=command,
        specs=specs,
        style=_text("page.css"),
        scripts=scripts,
        hashes=[_hash(script) for script in scripts],
        **parts,
    )


def script_text(script: str) -> str:
    """A library's script as it may stand in a page: nothing in it ends or opens an element."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _text(name: str) -> str:
    return TEMPLATES.joinpath(name).read_text("utf-8")


def _hash(script: str) -> str:
    """A script's hash as a page's policy names it."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"

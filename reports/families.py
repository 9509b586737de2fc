"""The models known by name, as tables: of the terminal, and of the documents.

`python -m llx.reports.families docs/checkpoint.md` writes its table anew between the markers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from llx.files import write_whole
from llx.llama.presets import PRESETS, Preset, families, preset_of_size
from llx.llama.spec import RopeSpec
from llx.reports.console import say, show, simple_table
from llx.reports.markdown import raw_table
from llx.reports.units import parameters

BEGIN, END = "<!-- families -->", "<!-- /families -->"
MODEL_HEADINGS = ("model", ">size", ">params", ">context", ">H/Hkv", "RoPE")
# What a LLaMA has not, by the spec's fields; those of one line are one thing to a reader.
PART_WORDS = {
    "biases on q, k, v": ("qkv_bias",),
    "biases": ("attention_bias", "mlp_bias"),
    "norms of q and k": ("qk_norm",),
    "a window": ("window",),
    "layers without RoPE": ("nope",),
    "heads turned in part": ("rotary_dim",),
    "multipliers": ("embed_scale", "attention_scale", "residual_scale", "logit_scale"),
}


def show_models(presets: Sequence[Preset] = PRESETS) -> None:
    """Print a line for each model under one for its family, in columns that all of them share."""
    rows = {key: _model_rows(of) for key, of in families().items() if of[0] in presets}
    lines = [MODEL_HEADINGS, *(row for of in rows.values() for row in of)]
    widths = [max(len(line[i].lstrip(">")) for line in lines) for i in range(len(MODEL_HEADINGS))]
    _show_part([], widths, headed=True)
    for key, of in rows.items():
        say(_family_line(families()[key]))
        _show_part(of, widths)


def _show_part(rows: Sequence[Sequence[str]], widths: Sequence[int], headed: bool = False) -> None:
    table = simple_table("", MODEL_HEADINGS, rows)
    table.show_header = headed
    for column, width in zip(table.columns, widths, strict=True):
        column.min_width = width
    show(table)


def _family_line(presets: Sequence[Preset]) -> str:
    """A family by both its names, with what it has that LLaMA has not, and its licences."""
    licences = f"under {_each(presets, lambda p: p.licence)}"
    about = "; ".join(filter(None, (_parts(presets), licences)))
    return f"{presets[0].family} ({presets[0].family_key}): {about}"


def _model_rows(presets: Sequence[Preset]) -> list[tuple[str, ...]]:
    """A line for each model, under `MODEL_HEADINGS`; its size where the size alone means it."""
    return [
        (
            f"  {preset.name}",
            preset.size if _is_meant(preset) else "",
            parameters(preset.spec.parameters),
            str(preset.spec.context),
            f"{preset.spec.heads}/{preset.spec.kv_heads}",
            _rope(preset.spec.rope),
        )
        for preset in presets
    ]


def families_table() -> str:
    """A line for each family, in Markdown; bold is what a size alone means."""
    headings = (
        *("family", "`--family`", "sizes", "variants", "beside LLaMA's parts"),
        *("context", "RoPE", "V", "licence"),
    )
    rows = [
        (
            presets[0].family,
            f"`{key}`",
            _sizes(presets),
            _each(presets, _variant),
            _parts(presets) or "–",
            _each(presets, lambda p: str(p.spec.context)),
            _each(presets, lambda p: _rope(p.spec.rope)),
            _each(presets, lambda p: str(p.spec.vocab)),
            _each(presets, lambda p: p.licence),
        )
        for key, presets in families().items()
    ]
    return raw_table(headings, rows)


def with_families_table(text: str) -> str:
    """A document with the table between its markers replaced by the one of today."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{families_table()}\n{END}{after}"


def _is_meant(preset: Preset) -> bool:
    return preset_of_size(preset.size) is preset


def _sizes(presets: Sequence[Preset]) -> str:
    meant = {preset.size for preset in presets if _is_meant(preset)}
    return _each(presets, lambda p: f"**{p.size}**" if p.size in meant else p.size)


def _each(presets: Sequence[Preset], what: Callable[[Preset], str]) -> str:
    """What the models have, each value once."""
    return ", ".join(dict.fromkeys(map(what, presets)))


def _parts(presets: Sequence[Preset]) -> str:
    """What they have that LLaMA has not, in words."""
    found = []
    for words, fields in PART_WORDS.items():
        having = [not preset.spec.parts.isdisjoint(fields) for preset in presets]
        if any(having):
            found.append(words if all(having) else f"{words} (some)")
    return ", ".join(found)


def _variant(preset: Preset) -> str:
    """What follows the size in a model's name: `chat`, `python`; nothing for the plain model."""
    return preset.name.partition(preset.size)[2].lstrip("-") or "plain"


def _rope(rope: RopeSpec) -> str:
    """RoPE in few letters: 500k llama3."""
    theta = f"{rope.theta / 1e6:g}M" if rope.theta >= 1e6 else f"{rope.theta / 1e3:g}k"
    return theta if rope.type == "default" else f"{theta} {rope.type}"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        write_whole(path, with_families_table(path.read_text(encoding="utf-8")).encode())

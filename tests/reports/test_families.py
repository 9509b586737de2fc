"""The tables of models: the documents' is the presets', and the terminal's fits it."""

from __future__ import annotations

import subprocess
import sys

from llx.llama.presets import PRESETS, families
from llx.llama.spec import PARTS
from llx.reports.families import BEGIN, END, PART_WORDS, families_table, with_families_table
from tests.test_imports import ROOT

PAGE = (ROOT / "docs" / "checkpoint.md").read_text()


def test_the_pages_table_is_that_of_the_presets():
    table = PAGE.split(BEGIN)[1].split(END)[0].strip()
    assert table == families_table(), "run `make readme`"


def test_the_table_is_written_between_its_markers_only(tmp_path):
    document = tmp_path / "page.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    subprocess.run([sys.executable, "-m", "llx.reports.families", document], check=True)
    assert document.read_text() == f"before\n{BEGIN}\n{families_table()}\n{END}\nafter\n"
    assert with_families_table(document.read_text()) == document.read_text()


def test_every_family_has_its_line_and_every_size_is_in_it():
    lines = families_table().splitlines()[2:]
    for line, (key, presets) in zip(lines, families().items(), strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[1] == f"`{key}`"
        sizes = cells[2].replace("*", "").split(", ")
        assert sizes == list(dict.fromkeys(preset.size for preset in presets))


def models_of(lines):
    return [line.split()[0] for line in lines if line.startswith("  ")]


def test_the_terminals_table_has_a_line_of_80_columns_for_each_model(llx):
    lines = llx("models").stdout.splitlines()
    assert models_of(lines) == [preset.name for preset in PRESETS]
    assert max(map(len, lines)) <= 80


def test_models_stand_under_the_line_of_their_family(llx):
    lines = llx("models").stdout.splitlines()
    starts = [i for i, line in enumerate(lines) if line[0] != " "][1:-1]
    assert len(starts) == len(families()) + 1
    for (key, presets), start, end in zip(families().items(), starts, starts[1:], strict=False):
        assert lines[start].startswith(f"{presets[0].family} ({key}): ")
        assert models_of(lines[start:end]) == [preset.name for preset in presets]


def test_a_familys_line_says_what_llama_has_not(llx):
    text = llx("models").stdout
    for line in (
        "Llama 2 (llama2): under llama2",
        "Mistral (mistral): a window (some); under Apache-2.0",
        "Qwen2.5 (qwen2.5): biases on q, k, v; under Apache-2.0, qwen-research, qwen",
        "Qwen3 (qwen3): norms of q and k; under Apache-2.0",
        "SmolLM3 (smollm3): layers without RoPE; under Apache-2.0",
        "Granite 3.3 (granite3.3): multipliers; under Apache-2.0",
    ):
        assert line in text.splitlines()


def test_every_optional_part_has_its_words():
    assert {field for fields in PART_WORDS.values() for field in fields} == set(PARTS)


def test_the_terminals_table_can_be_of_one_family(llx):
    models = models_of(llx("models", "--family", "codellama").stdout.splitlines())
    assert len(models) == 12
    assert all(model.startswith("code-llama-") for model in models)

"""The tables of models: the documents' is the presets', and the terminal's fits it."""

from __future__ import annotations

import subprocess
import sys

from llx.llama.presets import PRESETS, families
from llx.reports.families import BEGIN, END, families_table, with_families_table
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


def test_the_terminals_table_has_a_line_of_80_columns_for_each_model(llx):
    ended = llx("models")
    lines = ended.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == [preset.name for preset in PRESETS]
    assert max(map(len, lines)) <= 80


def test_the_terminals_table_can_be_of_one_family(llx):
    lines = llx("models", "--family", "codellama").stdout.splitlines()[1:-1]
    assert len(lines) == 12
    assert all(line.startswith("code-llama-") for line in lines)

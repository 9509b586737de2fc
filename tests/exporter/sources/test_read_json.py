"""JSON beside a checkpoint: what else a file can be, said in a line with a true remedy."""

from __future__ import annotations

import json

import pytest

from llx.errors import BadInput
from llx.typed import read_json

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 654\n"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (POINTER, r"is a Git LFS pointer.*: fetch it with `git lfs pull`"),
        (b"<!doctype html>\n<html>", "is a web page, not JSON: download it again"),
        (b"", r"download it again: it is cut off"),
        (b'{"hidden_size": 20', "download it again: it is cut off"),
        (b'{"hidden_size": 20, "model', "download it again: it is cut off"),
        (b'{"hidden_size": 20,}', r"line 1 column \d+.*: correct it there"),
        (b"{'hidden_size': 20}", "correct it there"),
        (b"\xef\xbb\xbf{}", "begins with a byte order mark: save it as UTF-8 without one"),
        ('{"a": 1}'.encode("utf-16"), "begins with a byte order mark"),
        ('{"a": "é"}'.encode("latin-1"), "not in UTF-8.*: save it as UTF-8"),
        (b'{"a":' + b"[" * 100000 + b"]" * 100000 + b"}", "nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not readable JSON"),
        (b"[]", "is not a JSON object: use the checkpoint's own"),
        (b"null", "is not a JSON object"),
        (b"\x00" * 100, "not readable JSON"),
    ],
)
def test_what_a_file_is_instead_of_json_is_said(tmp_path, data, says):
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(BadInput, match=says) as refused:
        read_json(tmp_path / "config.json")
    assert "\n" not in str(refused.value)
    if "cut off" not in says and "web page" not in says:
        assert "download" not in str(refused.value)


def test_a_file_of_absurd_length_is_not_read(tmp_path):
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(BadInput, match="more than 64 MiB"):
        read_json(tmp_path / "config.json")


def test_a_file_that_cannot_be_read_is_said(tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        read_json(tmp_path)


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": 1, "a": 2}', '{"a": "\\ud800"}', '{"é": 1}'])
def test_what_transformers_reads_is_read_alike(tmp_path, text):
    from transformers import PretrainedConfig

    file = tmp_path / "config.json"
    file.write_text(text, encoding="utf-8")
    theirs = PretrainedConfig._dict_from_json_file(file)
    assert json.dumps(read_json(file)) == json.dumps(theirs)


@pytest.mark.parametrize("data", [b"\xef\xbb\xbf{}", '{"a": 1}'.encode("utf-16"), b'{"a": "\xe9"}'])
def test_what_transformers_does_not_read_is_not_read(tmp_path, data):
    from transformers import PretrainedConfig

    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"BOM|decode"):
        PretrainedConfig._dict_from_json_file(tmp_path / "config.json")
    with pytest.raises(BadInput):
        read_json(tmp_path / "config.json")

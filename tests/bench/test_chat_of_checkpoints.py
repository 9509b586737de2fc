"""From a checkpoint's folder to a question's words, as `AutoTokenizer` finds and renders them."""

from __future__ import annotations

import json

import pytest

from llx.bench.chat import render_chat
from llx.exporter.export import export
from llx.exporter.request import ExportRequest
from llx.precision import PRECISIONS
from tests.checkpoints import write_checkpoint
from tests.conversations import LLAMA_2, TURNS

WORDS = """[{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ unk_token }}|{{ sep_token }}]
{{ bos_token is defined }}{{ pad_token is defined }}{{ image_token is defined }}
{{ messages[0].content }}"""
TOKENS = {
    "none": {"eos_token": None},
    "null": {"bos_token": None, "pad_token": None},
    "texts": {"bos_token": "<unused1>", "pad_token": "<unused2>", "unk_token": "<unused3>"},
    "objects": {"bos_token": {"__type": "AddedToken", "content": "<unused1>", "lstrip": False}},
}


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("template", [WORDS, LLAMA_2])
def test_a_checkpoints_template_renders_as_its_tokenizer_does(tmp_path, tokens, template):
    transformers = pytest.importorskip("transformers")
    folder = write_checkpoint(tmp_path / "checkpoint")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | TOKENS[tokens]))
    (folder / "chat_template.jinja").write_text(template)
    request = ExportRequest(
        weights=folder, folder=tmp_path / "out", precision=PRECISIONS["fp32"], command="llx export"
    )
    artifact, _ = export(request)
    messages = [{"role": "user", "content": TURNS["u"]["content"]}]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    try:
        wanted = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a word that is not set, joined to a text
        with pytest.raises(Exception, match=str(error)[:20]):
            render_chat(artifact, messages)
    else:
        assert render_chat(artifact, messages) == wanted

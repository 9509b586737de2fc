"""Whatever stands in an input file, a command ends in one line and the right exit code.

Every value of every file that llx reads is replaced by values of other types, and bytes are cut
and flipped. No bug of llx, no traceback, no hang, no memory without bound may come of it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from llx.api.reference import reference
from llx.manifest import MANIFEST, REFERENCE, TOKENIZER, WEIGHTS, record_of
from llx.result import encode_results
from tests.bounded import Bounded
from tests.checkpoints import (
    LLAMA3,
    SEED,
    TINY,
    random_tensors,
    write_bin,
    write_checkpoint,
    write_gguf,
    write_meta,
)
from tests.conftest import export_tiny
from tests.exporter.vocabularies import sentencepiece_fields, train
from tests.mutations import damaged_bytes, damaged_json, damaged_text
from tests.reports.made import result

Damage = Iterator[tuple[str, bytes]]
WIDER = replace(TINY, vocab=400)  # than SentencePiece's 256 bytes and a few
METAS = replace(TINY, head_dim=TINY.dim // TINY.heads)  # which params.json does not say
SAMPLED = 1  # of each file, where not all that can be done to it is tried
ALL = bool(os.environ.get("LLX_TEST_ALL"))  # that can be done to each; LLX_TEST_SEED draws others


@dataclass(frozen=True)
class Input:
    """A file that llx reads, among those that it needs beside it, and the commands that read it."""

    write: Callable[[Path], None]  # fills a folder
    file: str
    damage: Callable[[bytes], Damage]
    commands: Callable[[Path], list[list[str]]]
    most: int = 30  # damaged files, unless all are tried


def exports(folder: Path) -> list[list[str]]:
    out = f"{folder}-out"
    again = ["--weights", str(folder), "-o", out, "--context", "32", "--overwrite"]
    return [
        ["export", *again],
        ["generate", out, "hi", "-n", "2"],
        ["generate", out, "hi", "-n", "2", "--chat"],
    ]


def exports_file(name: str) -> Callable[[Path], list[list[str]]]:
    def commands(folder: Path) -> list[list[str]]:
        export, *rest = exports(folder)
        return [[str(folder / name) if a == str(folder) else a for a in export], *rest]

    return commands


def opens(folder: Path) -> list[list[str]]:
    return [
        ["inspect", str(folder)],
        ["generate", str(folder), "hi", "-n", "2", "--chat"],
        ["generate", str(folder), "hi", "-n", "2", "--engine", "torch"],
    ]


def checks(folder: Path) -> list[list[str]]:
    return [*opens(folder), ["check", str(folder)]]


def judges(folder: Path) -> list[list[str]]:
    bench = ["bench", str(folder), "--engine", "ort", "-p", "4", "-n", "2", "--no-roofline"]
    return [[*bench, "--repetitions", "1", "--fidelity", "-o", "json"]]


def reads(folder: Path) -> list[list[str]]:
    bad, base = str(folder / "bad.json"), str(folder / "base.json")
    return [
        ["compare", base, bad],
        ["compare", bad, base],
    ]


def reports(folder: Path) -> list[list[str]]:
    return [["report", str(folder / "bad.json"), "-o", str(folder / "page")]]


def gates(folder: Path) -> list[list[str]]:
    base = str(folder / "base.json")
    return [["compare", base, base, "--gate", str(folder / "gates.toml")]]


def hugging_face(folder: Path) -> None:
    write_checkpoint(folder, LLAMA3)
    tokens = {"eos_token": "<end>", "additional_special_tokens": ["<unused3>"]}
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens))
    (folder / "generation_config.json").write_text('{"eos_token_id": [0, 258], "bos_token_id": 1}')
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    added = {"content": "<unused1>", "special": True, "lstrip": False, "normalized": False}
    settings |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "added_tokens_decoder": {"258": added},
        "bos_token": None,
        "pad_token": "<unused1>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def sharded(folder: Path) -> None:
    write_checkpoint(folder, TINY, shards=2)


def with_sentencepiece(folder: Path) -> None:
    write_checkpoint(folder, WIDER, tokenizer=False)
    (folder / "tokenizer.model").write_bytes(train(vocab_size=WIDER.vocab - 1))
    (folder / "added_tokens.json").write_text(json.dumps({"<pad>": WIDER.vocab - 1}))
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def pickled(folder: Path) -> None:
    write_bin(folder, TINY, random_tensors(TINY))


def metas(folder: Path) -> None:
    write_meta(folder, METAS, random_tensors(METAS))


def ggufs(folder: Path) -> None:
    folder.mkdir(parents=True)
    model = folder / "tokenizer.model"
    model.write_bytes(train(vocab_size=WIDER.vocab))
    fields = sentencepiece_fields(model)
    model.unlink()

    def describe(writer) -> None:
        for name, value in fields.items():
            getattr(writer, name)(value)

    write_gguf(folder / "model.gguf", WIDER, random_tensors(WIDER), describe=describe)


def artifact(folder: Path) -> None:
    made = export_tiny(folder.with_name(f"{folder.name}-of"))
    reference(made, window=16, windows=2)
    shutil.copytree(made.folder, folder)
    assert (folder / REFERENCE).exists()


def results(folder: Path) -> None:
    folder.mkdir(parents=True)
    data = encode_results([result()])
    (folder / "base.json").write_bytes(data)
    (folder / "bad.json").write_bytes(data)
    gate = '[[gate]]\nmetric = "KLD *"\nkind = "deterministic"\nthreshold = "10%"\nlimit = 0.02\n'
    (folder / "gates.toml").write_text(f"{gate}required = true\n")


def header_of(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def thinly(each: int) -> Callable[[bytes], Damage]:
    """Every value replaced, each by a few of another type: where a case takes its time."""
    return lambda data: damaged_json(data, each)


def sampled(most: int, damage: Callable[[bytes], Damage]) -> Callable[[bytes], Damage]:
    """So many of all that can be done, where each is a measurement, a page, or a check."""

    def some(data: bytes) -> Damage:
        every = list(damage(data))
        yield from random.Random(SEED).sample(every, min(most, len(every)))

    return some


def damaged_safetensors(data: bytes) -> Damage:
    """The header's JSON by value, and bytes of the header."""
    size = header_of(data)
    for what, header in damaged_json(data[8:size], 2):
        yield f"header: {what}", len(header).to_bytes(8, "little") + header + data[size:]
    yield from damaged_bytes(data, reach=size)


def damaged_toml(data: bytes) -> Damage:
    values = ("1", "-1", "true", '""', '"x"', "[]", "nan", "inf", "{}", "1979-05-27")
    lines = data.decode().splitlines()
    for i, line in enumerate(lines):
        name, equals, _ = line.partition(" = ")
        for value in values if equals else ():
            changed = [*lines[:i], f"{name} = {value}", *lines[i + 1 :]]
            yield f"{name} = {value}", "\n".join(changed).encode()
        yield f"{name} gone", "\n".join([*lines[:i], *lines[i + 1 :]]).encode()
    yield from damaged_text(data)


INPUTS = {
    "config.json": Input(hugging_face, "config.json", damaged_json, exports),
    "tokenizer.json": Input(hugging_face, "tokenizer.json", thinly(4), exports),
    "tokenizer_config.json": Input(hugging_face, "tokenizer_config.json", damaged_json, exports),
    "special tokens": Input(hugging_face, "special_tokens_map.json", damaged_json, exports),
    "generation_config.json": Input(hugging_face, "generation_config.json", damaged_json, exports),
    "safetensors": Input(hugging_face, "model.safetensors", damaged_safetensors, exports),
    "an index": Input(sharded, "model.safetensors.index.json", damaged_json, exports),
    "tokenizer.model": Input(with_sentencepiece, "tokenizer.model", damaged_bytes, exports),
    "added_tokens.json": Input(with_sentencepiece, "added_tokens.json", damaged_json, exports),
    "torch.save": Input(pickled, "pytorch_model-00001-of-00002.bin", damaged_bytes, exports),
    "params.json": Input(metas, "params.json", damaged_json, exports),
    "consolidated.00.pth": Input(metas, "consolidated.00.pth", damaged_bytes, exports),
    "GGUF": Input(ggufs, "model.gguf", damaged_bytes, exports_file("model.gguf")),
    "manifest.json": Input(artifact, MANIFEST, thinly(2), opens),
    "an artifact's weights": Input(artifact, WEIGHTS, damaged_safetensors, checks),
    "an artifact's tokenizer": Input(artifact, TOKENIZER, thinly(3), opens),
    "an artifact's reference": Input(
        *(artifact, REFERENCE, sampled(40, damaged_safetensors), judges), most=15
    ),
    "an artifact's graph": Input(artifact, "standard.onnx", sampled(60, damaged_bytes), checks),
    "results": Input(results, "bad.json", sampled(200, thinly(1)), reads),
    "results on a page": Input(results, "bad.json", sampled(150, thinly(1)), reports),
    "gates.toml": Input(results, "gates.toml", damaged_toml, gates),
}


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bounded]:
    with Bounded(tmp_path_factory.mktemp("bounded")) as process:
        yield process


def faults_of(
    given: Input, folder: Path, commands: Bounded, sampled: int | None = None
) -> tuple[list[str], int]:
    """What must not have happened, and how many damaged files were tried."""
    given.write(folder)
    path = folder / given.file
    every = list(given.damage(path.read_bytes()))
    if sampled is not None:
        every = random.Random(SEED).sample(every, min(sampled, len(every)))
    found = []
    for what, data in every:
        path.write_bytes(data)
        vouch_for(folder, given.file)
        for command in given.commands(folder):
            ended = commands.run(*command)
            if ended.fault:
                found.append(f"{what}: llx {command[0]}: {ended.fault}")
            if ended.code != 0 and command[0] == "export":
                break
    return found, len(every)


def vouch_for(folder: Path, name: str) -> None:
    """Let an artifact's manifest say that the damaged file is as it should be: who damages can."""
    manifest = folder / MANIFEST
    if name != MANIFEST and manifest.exists():
        content = json.loads(manifest.read_text())
        if name not in content["files"]:
            return
        record = record_of(folder / name)
        content["files"][name] |= {"bytes": record.bytes, "sha256": record.sha256}
        manifest.write_text(json.dumps(content))


@pytest.mark.parametrize("given", INPUTS.values(), ids=INPUTS)
def test_some_value_of_another_type_ends_in_a_line(given, tmp_path, commands):
    found, _ = faults_of(given, tmp_path / "in", commands, SAMPLED)
    assert not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("given", INPUTS.values(), ids=INPUTS)
def test_any_value_of_another_type_ends_in_a_line(given, tmp_path, commands, capsys):
    found, count = faults_of(given, tmp_path / "in", commands, None if ALL else given.most)
    with capsys.disabled():
        print(f"\n{count} damaged files, {len(found)} that end wrongly", end=" ")
    assert not found, "\n".join(found)

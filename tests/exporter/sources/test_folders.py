"""Which files of a folder are the checkpoint: what transformers takes, the only ones, or a refusal.

The oracle is transformers itself, on the same folders: every tensor of what it loads is compared.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import save_file

from llx.errors import BadInput
from llx.exporter.sources import check_coverage, open_source
from tests.checkpoints import (
    TINY,
    random_tensors,
    write_bin,
    write_checkpoint,
    write_gguf,
    write_meta,
)

# Each way to store a model has weights of its own, so that it is seen which was read.
SETS = ("single", "shards", "bin", "bin-shards", "variant", "consolidated")
MODELS = {name: random_tensors(TINY, seed) for seed, name in enumerate(SETS)}


def with_metadata(folder):
    """transformers wants an index to have `metadata`."""
    for index in folder.glob("*.index.json"):
        index.write_text(json.dumps({"metadata": {}} | json.loads(index.read_text())))
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A folder for each way to store a model, to be put together from."""
    root = tmp_path_factory.mktemp("parts")
    with_metadata(write_checkpoint(root / "shards", TINY, MODELS["shards"], 3, tokenizer=False))
    with_metadata(write_bin(root / "bin-shards", TINY, MODELS["bin-shards"]))
    for name in ("single", "bin", "variant", "consolidated"):
        (root / name).mkdir()
    save_file(MODELS["single"], root / "single" / "model.safetensors")
    torch.save(MODELS["bin"], root / "bin" / "pytorch_model.bin")
    save_file(MODELS["variant"], root / "variant" / "model.fp16.safetensors")
    save_file(MODELS["consolidated"], root / "consolidated" / "consolidated.safetensors")
    return root


def put_together(parts, folder, names, gone=()):
    """A folder with several ways to store a model; of those in `gone` only the index is there."""
    folder.mkdir()
    for name in names:
        for file in (parts / name).iterdir():
            shard = file.suffix in (".safetensors", ".bin")
            if file.name != "config.json" and not (shard and name in gone):
                os.link(file, folder / file.name)
    shutil.copy(parts / "shards" / "config.json", folder)
    return folder


def which(tensors):
    """The model that tensors are of."""
    same = [
        name
        for name, model in MODELS.items()
        if all(torch.equal(tensors[key], model[key]) for key in model)
    ]
    return same[0] if same else "none of them"


def ours(path):
    try:
        source = open_source(path)
        check_coverage(source)
    except BadInput as error:
        return error
    return which({name: source.read(name) for name in source.tensors})


def theirs(folder):
    from transformers import AutoModelForCausalLM, logging

    logging.set_verbosity_error()
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:
        return error
    return which(model.state_dict()) if not any(info.values()) else ValueError(str(info))


LAYOUTS = [
    (names, gone)
    for count in range(4)
    for names in itertools.combinations(SETS, count)
    for gone in itertools.chain.from_iterable(
        itertools.combinations([n for n in names if n.endswith("shards")], k) for k in range(3)
    )
]
FEW = [layout for layout in LAYOUTS if len(layout[0]) == 2]


def require_as_transformers(parts, folder, names, gone):
    put_together(parts, folder, names, gone)
    found, right = ours(folder), theirs(folder)
    if isinstance(right, str):
        assert found == right
        return
    if isinstance(found, str):  # more than transformers reads: only where nothing else is meant
        assert list(names) == [found]
        return
    for name in set(names) - set(gone):  # what lies there is named, or what is missing
        assert "is missing" in found.message or MARKS[name] in found.message


MARKS = {
    "single": "model.safetensors",
    "shards": "model-0",
    "bin": "pytorch_model.bin",
    "bin-shards": "pytorch_model-0",
    "variant": "fp16",
    "consolidated": "consolidated",
}


@pytest.mark.parametrize(("names", "gone"), FEW, ids=lambda value: "+".join(value) or "all there")
def test_of_two_ways_to_store_a_model_the_one_that_transformers_takes_is_read(
    parts, tmp_path, names, gone
):
    require_as_transformers(parts, tmp_path / "model", names, gone)


@pytest.mark.slow
def test_of_any_files_in_a_folder_those_that_transformers_takes_are_read(parts, tmp_path):
    for number, (names, gone) in enumerate(LAYOUTS):
        require_as_transformers(parts, tmp_path / f"{number}", names, gone)
    print(f"{len(LAYOUTS)} folders")


@pytest.mark.parametrize("name", SETS)
def test_a_file_that_is_named_is_the_one_that_is_read(parts, tmp_path, name):
    folder = put_together(parts, tmp_path / "model", SETS)
    for file in (parts / name).iterdir():
        if file.name != "config.json" and "token" not in file.name:
            assert ours(folder / file.name) == name


def test_a_shard_that_is_named_stands_for_its_set_without_an_index_too(parts, tmp_path):
    folder = put_together(parts, tmp_path / "model", ["shards", "single"])
    (folder / "model.safetensors.index.json").unlink()
    assert ours(folder / "model-00002-of-00003.safetensors") == "shards"
    (folder / "model-00003-of-00003.safetensors").unlink()
    refusal = ours(folder / "model-00002-of-00003.safetensors")
    assert "model-00003-of-00003.safetensors is missing" in refusal.message
    assert "model.safetensors" in refusal.message


def test_config_json_names_its_weights_as_for_transformers(parts, tmp_path):
    folder = put_together(parts, tmp_path / "model", SETS)
    config = json.loads((folder / "config.json").read_text())
    for file in ("model.fp16.safetensors", "model.safetensors.index.json"):
        (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": file}))
        assert ours(folder) == theirs(folder) != "single"


def test_endings_in_capitals_and_a_folder_called_like_the_index_are_no_obstacle(parts, tmp_path):
    folder = put_together(parts, tmp_path / "model", ["shards"])
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model.safetensors.index.json").mkdir()
    assert ours(folder) == "shards"
    for file in folder.glob("*.safetensors"):
        file.rename(file.with_suffix(".SAFETENSORS"))
    assert ours(folder) == "shards"


def test_what_lies_beside_the_weights_and_is_not_read_is_told(parts, tmp_path):
    folder = put_together(parts, tmp_path / "model", ["single", "bin"])
    (told,) = open_source(folder).warnings
    assert told == "model.safetensors is read, and not pytorch_model.bin, beside it"


def test_what_training_leaves_beside_weights_is_no_candidate(parts, tmp_path):
    folder = put_together(parts, tmp_path / "model", ["variant"])
    for name in ("training_args.bin", "optimizer.bin", "optimizer.safetensors", "scheduler.pt"):
        (folder / name).write_bytes(b"")
    assert ours(folder) == "variant"


def changed_index(folder, change):
    index = folder / "model.safetensors.index.json"
    whole = json.loads(index.read_text())
    change(whole["weight_map"])
    index.write_text(json.dumps(whole))


@pytest.mark.parametrize(
    "change",
    [
        lambda where: where.pop("model.norm.weight"),
        lambda where: where.update({"model.norm.weight": where["lm_head.weight"]}),
        lambda where: where.update({"model.extra.weight": where["lm_head.weight"]}),
    ],
    ids=["leaves one out", "has one elsewhere", "has one too many"],
)
def test_tensors_are_where_they_are_whatever_the_index_says(parts, tmp_path, change):
    folder = put_together(parts, tmp_path / "model", ["shards"])
    os.unlink(folder / "model.safetensors.index.json")
    shutil.copy(parts / "shards" / "model.safetensors.index.json", folder)
    changed_index(folder, change)
    assert ours(folder) == theirs(folder) == "shards"


def test_a_tensor_that_its_shard_lacks_is_named_with_the_shard(parts, tmp_path):
    folder = put_together(parts, tmp_path / "model", ["shards"])
    where = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    os.unlink(folder / where["model.norm.weight"])
    save_file({"nothing": torch.zeros(1)}, folder / where["model.norm.weight"])
    refusal = ours(folder)
    assert f"{where['model.norm.weight']} lacks " in refusal.message


def test_several_gguf_files_are_all_named(tmp_path):
    for name in ("q4", "q8"):
        write_gguf(tmp_path / f"model-{name}.gguf", TINY, MODELS["single"])
    with pytest.raises(BadInput, match=r"several checkpoints: model-q4\.gguf, model-q8\.gguf"):
        open_source(tmp_path)
    assert ours(tmp_path / "model-q8.gguf") == "single"


def test_a_gguf_file_beside_a_config_is_read_where_there_are_no_other_weights(parts, tmp_path):
    shutil.copy(parts / "shards" / "config.json", tmp_path)
    write_gguf(tmp_path / "model.GGUF", TINY, MODELS["bin"])
    assert ours(tmp_path) == "bin"
    save_file(MODELS["single"], tmp_path / "model.safetensors")
    assert ours(tmp_path) == "single"


def test_metas_files_beside_hugging_faces_are_not_taken_for_them(parts, tmp_path):
    folder = put_together(parts, tmp_path / "model", ["single"])
    write_meta(folder, TINY, MODELS["bin"])
    assert ours(folder) == theirs(folder) == "single"
    assert open_source(folder / "consolidated.00.pth", TINY).format == "Meta"
    (folder / "model.safetensors").unlink()
    assert open_source(folder, TINY).format == "Meta"


def test_a_folder_of_a_config_alone_says_what_lies_there(parts, tmp_path):
    folder = put_together(parts, tmp_path / "model", [])
    with pytest.raises(BadInput, match=r"model\.safetensors is missing.*there are config\.json"):
        open_source(folder)


def test_weights_without_a_config_say_that_it_is_missing(tmp_path):
    save_file(MODELS["single"], tmp_path / "model.safetensors")
    with pytest.raises(BadInput, match=r"no config\.json.*there are model\.safetensors"):
        open_source(tmp_path)
    with pytest.raises(BadInput, match=r"has no config\.json, which says what model"):
        open_source(tmp_path / "model.safetensors")

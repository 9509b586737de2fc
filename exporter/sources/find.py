"""Which files of a Hugging Face folder are its weights: what transformers takes, or the only ones.

Where files could be meant that transformers would not take, and more than one set of them lies
there, none is chosen.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from llx.errors import BadInput
from llx.files import is_plain_name
from llx.nearby import absence, is_broken_link
from llx.typed import read_json

# In transformers' order of preference (`_get_resolved_checkpoint_files` of its modeling_utils).
FIRST = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
INDEX = ".index.json"
ENDINGS = (".safetensors", ".bin")
SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)", re.ASCII)
# What training leaves beside weights, and adapters, which are looked for by themselves.
NO_WEIGHTS = re.compile(
    r"(training_args|optimizer|scheduler|scaler|rng_state|random_states|adapter_model)\b.*", re.I
)
OF_MODELS = ("config.json", "params.json")
MOST_BELOW = 200  # entries of a folder that are looked into
PARTIAL = (".incomplete", ".part", ".crdownload", ".partial", ".aria2")


@dataclass(frozen=True)
class Found:
    """The files of the weights, in order of name; where each tensor is, as far as an index says."""

    paths: tuple[Path, ...]
    index: Path | None = None
    where: tuple[tuple[str, str], ...] = ()
    guessed: bool = False  # transformers would look for none of these names

    @property
    def name(self) -> str:
        """What it is called in a message: an index, a file, or the first of some."""
        if self.index:
            return self.index.name
        more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        return f"{self.paths[0].name}{more}"


def find_weights(folder: Path, named: Path | None = None, configured: str | None = None) -> Found:
    """The files that are meant. Raises `BadInput` where some are missing, or it cannot be told.

    `named`: the file that the user named. `configured`: config.json's `transformers_weights`,
    which transformers takes before any other.
    """
    if named:
        return _named(named)
    if configured:
        if not is_plain_name(configured):
            raise BadInput(
                f"config.json's transformers_weights names {configured!r}, outside its folder",
                "name the weights' file with --weights",
            )
        return _one(folder / configured)
    for name in FIRST:
        if (folder / name).is_file():
            return _one(folder / name)
    return _only(folder)


def weight_files(folder: Path) -> list[Path]:
    """Every file of the folder that may hold a model's weights, in order of name."""
    return sorted(path for path in folder.iterdir() if is_weights(path) and path.is_file())


def is_weights(path: Path) -> bool:
    """Whether a file may hold a model's weights, by its name."""
    return path.suffix.lower() in ENDINGS and not NO_WEIGHTS.match(path.name)


def shard_sets(paths: Iterable[Path]) -> list[list[Path]]:
    """Files grouped: the shards of one set, as their names say, together, any other alone."""
    groups: dict[tuple[str, ...], list[Path]] = {}
    for path in paths:
        shard = SHARD.fullmatch(path.name)
        key = (shard[1], shard[3], shard[4].lower()) if shard else (path.name,)
        groups.setdefault(key, []).append(path)
    return list(groups.values())


def missing_shards(paths: list[Path]) -> list[str]:
    """Names that shards of one set lack: each says how many there are."""
    shard = SHARD.fullmatch(paths[0].name)
    if shard is None:
        return []
    numbers = {int(SHARD.fullmatch(path.name)[2]) for path in paths}  # type: ignore[index]
    first = 0 if 0 in numbers else 1
    return [
        f"{shard[1]}-{n:05}-of-{shard[3]}{shard[4]}"
        for n in range(first, first + int(shard[3]))
        if n not in numbers
    ]


def require_shards(folder: Path, missing: list[str], of: str) -> None:
    """Raise `BadInput` where files of a set are missing, with what lies there in their place."""
    if not missing:
        return
    others = [path.name for path in weight_files(folder) if path.name not in missing]
    partial = [path.name for path in folder.iterdir() if path.suffix in PARTIAL]
    lies = f"; there are {some(others)}" if others else ""
    half = f"; {some(partial)} is half of a download" if partial else ""
    lacks = absence(folder / missing[0])
    if is_broken_link(folder / missing[0]):
        raise BadInput(
            f"{folder / missing[0]} {lacks}{_more(missing)}; {of} names it",
            "mend the link, or put the file itself there",
        )
    raise BadInput(
        f"{folder / missing[0]} {lacks}{_more(missing)}, which {of} names{lies}{half}",
        "download what is missing, or name the file that is meant with --weights"
        if others
        else "download the whole checkpoint",
    )


def some(names: list[str], most: int = 3) -> str:
    """The first few of a list, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def contents_of(folder: Path) -> str:
    """What lies in a folder, as the end of a message: whole checkpoints below it, or its files."""
    below = checkpoints_below(folder)
    if below:
        return f"; there are checkpoints below it: {some(below, 5)}"
    paths = sorted(folder.iterdir(), key=lambda path: (not is_broken_link(path), path.name))
    names = [f"{p.name} (which {absence(p)})" if is_broken_link(p) else p.name for p in paths]
    return f"; there are {some(names, 5)}" if names else "; it is empty"


def meant(folder: Path, remedy: str) -> str:
    """What mends a folder that holds no checkpoint itself: one below it is named, else `remedy`."""
    broken = any(is_broken_link(path) for path in folder.iterdir())
    if checkpoints_below(folder):
        return "name one of them with --weights"
    return "mend the link, or put the file itself there" if broken else remedy


def checkpoints_below(folder: Path, deep: int = 2) -> list[str]:
    """Folders below one that look like checkpoints, and GGUF files there, as paths from it.

    As in a download of several models, the folders of a training run, or the hub's cache.
    """
    found: list[str] = []
    for below in sorted(islice(folder.iterdir(), MOST_BELOW)) if deep else ():
        if not below.is_dir() or below.is_symlink() or not os.access(below, os.R_OK | os.X_OK):
            continue
        models = [below] if any((below / name).is_file() for name in OF_MODELS) else []
        models += [path for path in sorted(below.glob("*.gguf")) if not models and path.is_file()]
        found += [str(path.relative_to(folder)) for path in models]
        if not models:
            found += [f"{below.name}/{name}" for name in checkpoints_below(below, deep - 1)]
    return found[:MOST_BELOW]


def _more(names: list[str]) -> str:
    return f" with {len(names) - 1} more" if len(names) > 1 else ""


def _named(path: Path) -> Found:
    """A file that was named: itself, or the shards that it is one of."""
    if path.name.endswith(INDEX) or not SHARD.fullmatch(path.name):
        return _one(path)
    for index in sorted(path.parent.glob(f"*{INDEX}")):
        if index.is_file() and path.name in dict(_weight_map(index)).values():
            return _indexed(index)
    (siblings,) = (s for s in shard_sets(weight_files(path.parent)) if path in s)
    require_shards(path.parent, missing_shards(siblings), path.name)
    return Found(tuple(siblings))


def _one(path: Path) -> Found:
    if path.name.endswith(INDEX):
        return _indexed(path)
    if not path.is_file():
        remedy = "mend the link" if is_broken_link(path) else "download the whole checkpoint"
        raise BadInput(f"{path} {absence(path)}", remedy)
    return Found((path,))


def _indexed(index: Path) -> Found:
    where = _weight_map(index)
    names = sorted({name for _, name in where})
    missing = [name for name in names if not (index.parent / name).is_file()]
    require_shards(index.parent, missing, index.name)
    return Found(tuple(index.parent / name for name in names), index, where)


def _weight_map(index: Path) -> tuple[tuple[str, str], ...]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadInput(
            f"{index} has no weight_map", "use the checkpoint's own, or name a file with --weights"
        )
    for name in weight_map.values():
        if not isinstance(name, str) or not is_plain_name(name):
            raise BadInput(
                f"{index} names {name!r}, outside its folder",
                "use an index whose files lie beside it",
            )
    return tuple(weight_map.items())


def _only(folder: Path) -> Found:
    """The only files there that could be meant: transformers would take none of them."""
    candidates = shard_sets(weight_files(folder))
    if not candidates:
        raise BadInput(
            f"{folder / FIRST[0]} {absence(folder / FIRST[0])}, and there is no other file of "
            f"weights{contents_of(folder)}",
            meant(folder, "download the whole checkpoint"),
        )
    if len(candidates) > 1:
        raise BadInput(
            f"{folder} holds several files of weights and nothing that says which are meant: "
            f"{some([Found(tuple(paths)).name for paths in candidates], 6)}",
            "name the file that is meant with --weights",
        )
    (paths,) = candidates
    require_shards(folder, missing_shards(paths), f"the name of {paths[0].name}")
    return Found(tuple(paths), guessed=True)

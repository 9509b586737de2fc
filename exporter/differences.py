"""What an artifact that stands in a folder differs in from what is asked for now.

Three things decide an export: the options, the checkpoint's files, and llx itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

import llx
from llx.errors import BadInput
from llx.manifest import Manifest

OPTIONS, CHECKPOINT, LLX = "options", "checkpoint", "llx"
OTHER_FOLDER = "choose another folder with -o, or replace it with --overwrite"


def hash_of(value: object) -> str:
    """SHA-256 of a value as JSON."""
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()


def hashed(parts: Mapping[str, object]) -> dict[str, str]:
    """A hash of each thing that decides an export, for the manifest."""
    return {name: hash_of(part) for name, part in parts.items()}


def another_export(folder: object, standing: Manifest, asked: Mapping[str, str]) -> BadInput:
    """The error for a folder that holds the artifact of another request: what differs is named."""
    command = standing.command or "unknown command"
    differing = [name for name in asked if standing.asked.get(name) != asked[name]]
    version = standing.versions.get("llx", "unknown")
    here = f" {version}, and this is {llx.__version__}" if version != llx.__version__ else ""
    if not standing.asked:  # an artifact of before its parts were noted
        what = "of other options, of a checkpoint that has changed since, or of another llx"
        return BadInput(f"{folder} holds another export (`{command}`, {what}{here})", OTHER_FOLDER)
    if differing == [LLX]:
        how = f"by llx{here}" if here else "by other rules of llx than those of this version"
        return BadInput(
            f"{folder} holds this export, of the same options and checkpoint, made {how} "
            f"(`{command}`)",
            "make it again with --overwrite, or choose another folder with -o",
        )
    words = {
        OPTIONS: "of other options",
        CHECKPOINT: "of another checkpoint, or of one that has changed since",
        LLX: f"by another llx{here}",
    }
    what = ", ".join(words[name] for name in differing)
    return BadInput(f"{folder} holds another export (`{command}`, {what})", OTHER_FOLDER)

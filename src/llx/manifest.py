"""`Manifest`: everything about an artifact that is not weights or nodes, as its folder holds it.

It is untrusted data: it is decoded against the types below, and its file names must be plain.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import msgspec

from llx.files import is_plain_name, real_path, sha256_of, write_whole
from llx.graphs.contract import GraphContract
from llx.intact import seen
from llx.llama.spec import LlamaSpec
from llx.places import folder_of, noted_places
from llx.precision import Precision

MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
TOKENIZER = "tokenizer.json"
CHAT_TEMPLATE = "chat_template.jinja"
CONFIGS = ("config.json", "generation_config.json")  # the checkpoint's own
REFERENCE = "reference.safetensors"
REFERENCES = f"{REFERENCE.removesuffix('.safetensors')}-*.safetensors"  # all but the first
UNREAD = "the tokenizer is left out: "  # how a warning begins that says why there is none
UNDECODED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
HOME = "~"  # in a path: that of whoever reads it
METHODS = {
    "smoothquant": "SmoothQuant and GPTQ",
    "gptq": "GPTQ",
    "awq": "AWQ and GPTQ",
    "levelled": "one scale for all inputs, and GPTQ",
    "plain": "rounded to nearest, on random tokens",
}


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """Size and hash of one file of the folder; of a graph its number of nodes too."""

    bytes: int
    sha256: str
    nodes: int | None = None


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A checkpoint file as it was at export: enough to see that it is still the same."""

    path: str  # from the checkpoint's folder; llx 0.1.0 noted an absolute one
    bytes: int
    mtime_ns: int
    sha256: str | None = None  # llx 0.1.0 noted none

    def is_at(self, path: Path) -> bool:
        """Whether the same file lies there. It is read only where its time is another one.

        Raises `OSError` where none lies there, or none that can be read.
        """
        found = path.stat()
        if found.st_size != self.bytes:
            return False
        if found.st_mtime_ns == self.mtime_ns:
            return True
        return self.sha256 is not None and seen(path, self.sha256)[0] == self.sha256


@dataclass(frozen=True, kw_only=True)
class SourceRecord:
    """Where the weights came from. `path` is the checkpoint's folder or file.

    It begins with `~/` in the home of who exported it, and goes from the artifact's folder where it
    lies elsewhere: an artifact that is handed on names nobody's folders. `warnings`: what the
    export told its user of the checkpoint, a line each.
    """

    label: str
    format: str
    path: str
    files: tuple[SourceFile, ...]
    ignored: dict[str, str] = field(default_factory=dict)  # checkpoint tensor → why it is unused
    warnings: tuple[str, ...] = ()

    def lies_at(self, path: Path) -> bool:
        """Whether the files of its weights lie at a path, a folder or a file, as they were."""
        try:
            return all(file.is_at(folder_of(path) / file.path) for file in self.files)
        except OSError:
            return False

    def told(self, artifact: Path) -> Path | None:
        """Where it lies by the artifact's own word."""
        if not self.path:
            return None
        if self.path == HOME or self.path.startswith(f"{HOME}/"):
            with contextlib.suppress(RuntimeError):  # a user without a home
                return Path.home() / self.path.removeprefix(HOME).lstrip("/")
        return Path(os.path.normpath(real_path(artifact) / self.path))


@dataclass(frozen=True, kw_only=True)
class TextRecord:
    """What generation needs beside the tokenizer: where text ends, the template's words.

    `special_tokens`: the other tokens that a chat template knows by name, such as `pad_token`;
    only those that are set.
    """

    eos_ids: tuple[int, ...] = ()
    bos_token: str = ""
    eos_token: str = ""
    special_tokens: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CastCounts:
    """Values that the graph's dtype could not hold when the weights were cast to it."""

    overflowed: int = 0
    underflowed: int = 0


@dataclass(frozen=True, kw_only=True)
class BudgetRecord:
    """What a quantized model was allowed to cost, and what it costs on a few windows.

    They are of the kinds of text that it was calibrated on, but were not calibrated on themselves.
    `judged_by`: the engine that ran the artifact's graph, or "pytorch" for its values and scales in
    PyTorch where no engine could.
    """

    max_kld: float | None
    max_ppl_ratio: float | None
    kld: float
    ppl_ratio: float
    windows: int
    judged_by: str


@dataclass(frozen=True, kw_only=True)
class QuantizationRecord:
    """How the linear layers were quantized, and what they were calibrated on.

    `nearest`: weights alone, each rounded to the nearest step; nothing is calibrated, and there is
    no corpus. `plain`: random weights, on random tokens, which no hash is of. `written`: how many
    windows the model wrote itself; the others are of the corpus. `dense`: modules, such as
    `layers.3.down`, that were left as they are computed in. `share`: of the linear layers'
    multiply-adds that is quantized. `sensitivities`: the KLD that each module was predicted to cost
    by itself, in nats a token; the costliest for their work are those that were left.
    """

    # w8a8, fp8: 8 bits, integers or E4M3, weights per output channel, activations per tensor. w8,
    # w4: weights alone, per output channel or in blocks.
    scheme: Literal["w8a8", "w8", "w4", "fp8"] = "w8a8"
    method: Literal["smoothquant", "gptq", "awq", "levelled", "plain", "nearest"] = "smoothquant"
    corpus: str | None = None
    corpus_sha256: str | None = None
    windows: int = 0
    written: int = 0
    window: int = 0
    dense: tuple[str, ...] = ()
    share: float = 1.0
    sensitivities: dict[str, float] = field(default_factory=dict)
    budget: BudgetRecord | None = None

    @property
    def in_words(self) -> str:
        """What a reader of any number must know of it."""
        if self.method == "nearest":
            return "weights rounded to nearest, without calibration"
        windows = "1 window" if self.windows == 1 else f"{self.windows} windows"
        words = f"{METHODS[self.method]}, {windows} of {self.window} tokens"
        if self.written:
            of_them = "all" if self.written == self.windows else str(self.written)
            words += f", {of_them} written by the model itself"
        if self.share < 1:
            words += f", {100 * self.share:.1f} % of the linear layers' work"
        return words


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything about an artifact that is not weights or nodes."""

    schema: Literal["llx.artifact/1"] = "llx.artifact/1"
    name: str
    created: str  # ISO 8601, UTC
    command: str
    request: str  # hash of what was asked for: the same export again is a no-op
    asked: dict[str, str] = field(default_factory=dict)  # the same of each part of it, by name
    spec: LlamaSpec
    precision: Precision
    contract: GraphContract
    source: SourceRecord
    text: TextRecord | None
    casts: CastCounts
    quantization: QuantizationRecord | None = None
    versions: dict[str, str]
    files: dict[str, FileRecord]

    def __post_init__(self) -> None:
        for name in self.files:
            if not is_plain_name(name):
                raise ValueError(f"file name {name!r} leaves the folder")
        if not self.contract.fits(self.spec, self.precision.compute):
            raise ValueError("the contract is not that of the model")
        if WEIGHTS in self.files and bool(self.quantization) != (self.precision.linear != "dense"):
            raise ValueError(f"{self.precision.name} and its quantization record disagree")

    def checkpoint_at(self, folder: Path) -> Path | None:
        """Where the checkpoint of an artifact in that folder should lie; None without any.

        Where nothing lies there, as when the artifact was copied, where this user had it last.
        """
        path = self.source.told(folder)
        if path is None or path.exists():
            return path
        noted = noted_places(self.asked.get("checkpoint", ""))
        return next(filter(self.source.lies_at, noted), path)

    @property
    def references(self) -> tuple[str, ...]:
        """Names of the captured references: by what texts and windows, each of them says itself."""
        others = (name for name in sorted(self.files) if fnmatchcase(name, REFERENCES))
        return tuple(name for name in (REFERENCE, *others) if name in self.files)

    @property
    def dense(self) -> frozenset[str]:
        """Modules that are not quantized, where others are."""
        return frozenset(self.quantization.dense if self.quantization else ())


def record_of(path: Path) -> FileRecord:
    """Size and hash of a file."""
    return FileRecord(bytes=path.stat().st_size, sha256=sha256_of(path))


def decoded_manifest(data: bytes) -> Manifest:
    """A manifest of its JSON. Raises one of `UNDECODED`."""
    return msgspec.json.decode(data, type=Manifest)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a manifest, whole or not at all."""
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    write_whole(folder / MANIFEST, data + b"\n")

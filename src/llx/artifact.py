"""`Artifact`: one folder with a weights file, a small graph per runtime, and a manifest.

A graph reaches a runtime only where it is one that llx writes. No file is used whose bytes are not
the manifest's: `read`, `intact` and `held` see to it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llx.arguments import door
from llx.errors import BadInput, NotExported, one_line, printable
from llx.files import (
    beside,
    changing,
    make_folder,
    real_path,
    require_unicode,
    sha256_of,
    sync,
    write_whole,
)
from llx.intact import FileState, seen, state_of
from llx.manifest import (
    CHAT_TEMPLATE,
    MANIFEST,
    REFERENCE,
    TOKENIZER,
    UNDECODED,
    WEIGHTS,
    FileRecord,
    Manifest,
    decoded_manifest,
    write_manifest,
)
from llx.nearby import near_in_words
from llx.notebook import html_table
from llx.progress import Progress, silent
from llx.typed import refuse_newer

if TYPE_CHECKING:
    from llx.api.session import OpenSession

DEFAULT_ROOT = Path("artifacts")
LATEST = ".latest"


@dataclass(frozen=True)
class Artifact:
    """An artifact that was opened: the manifest is valid, its files are there in full size."""

    folder: Path
    manifest: Manifest

    @property
    def sha256(self) -> str:
        """Identity: the hash over weights and graphs. A captured reference does not change it."""
        digest = hashlib.sha256()
        for name, record in sorted(self.manifest.files.items()):
            if name == WEIGHTS or name.endswith(".onnx"):
                digest.update(f"{name} {record.sha256}\n".encode())
        return digest.hexdigest()

    @property
    def dialects(self) -> list[str]:
        """Names of the dialects that the artifact holds a graph of."""
        names = sorted(self.manifest.files)
        return [name.removesuffix(".onnx") for name in names if name.endswith(".onnx")]

    @property
    def weights_in_words(self) -> str:
        """Which weights an engine runs, for the result."""
        how = self.manifest.quantization
        kind = f"{self.manifest.precision.name} ({how.in_words})" if how else "dense"
        return f"the artifact's {kind} weights"

    @property
    def model_bytes(self) -> int:
        """Size of weights and graphs."""
        files = self.manifest.files.items()
        return sum(f.bytes for name, f in files if name == WEIGHTS or name.endswith(".onnx"))

    def path(self, name: str) -> Path:
        """Path of a file of the folder. Raises `NotExported` where the artifact has none."""
        if name not in self.manifest.files:
            raise NotExported(f"{self.folder} has no {name}", _remedy_without(name))
        return self.folder / name

    def graph(self, dialect: str) -> Path:
        """Path of a dialect's graph, safe to give to a runtime.

        Raises `NotExported` where there is none, and `BadInput` where its bytes are not the
        manifest's or it is none that llx writes: a runtime runs what a graph holds, and opens what
        it names.
        """
        if not self.has(WEIGHTS):
            raise NotExported(
                f"{self.folder} holds graphs only: it was exported with --weights none",
                "export it with weights, or with --weights random",
            )
        return self.trusted_graph(dialect)

    def trusted_graph(self, dialect: str) -> Path:
        """Path of a dialect's graph to look into, with its weights or without.

        Raises as `graph` does: who loads a graph of somebody else's may open what it names too.
        """
        from llx.graphs.dialects import dialect_named
        from llx.graphs.trust import distrusted

        path = self.intact(f"{dialect}.onnx")
        for wrong in distrusted(
            *(path, self.folder / WEIGHTS, dialect_named(dialect)),
            *(self.manifest.precision, self.manifest.contract),
            with_weights=self.has(WEIGHTS),
        ):
            raise BadInput(f"{path} {wrong}", "do not use it: llx writes no such graph")
        return path

    @door
    def session(
        self, engine: str = "ort", *, rows: int = 1, trust_engine: bool = False
    ) -> OpenSession:
        """Open an engine over the artifact, step by step: tokens in, logits out.

        Args:
            engine: One of `llx.bench`'s, such as "ort", "torch" or "trt-rtx".
            rows: Sequences that advance together, B.
            trust_engine: Load a built engine that is not this user's own.

        Returns:
            A context manager. Its `step` takes integers [B, T] and returns float32 logits [B, V].

        Raises:
            BadInput: An unknown engine, more rows than it takes, a damaged graph.
            Lacking: The engine is not here, or there is none that was built.

        """
        from llx.api.session import open_session

        return open_session(self, engine, rows, trust_engine)

    @contextmanager
    def opened_weights(self, framework: Literal["pt", "np"]) -> Iterator[Any]:
        """The weights file, opened with safetensors for PyTorch or NumPy.

        Raises `BadInput` where what is read within is not there, or not as the manifest says.
        """
        from safetensors import SafetensorError, safe_open

        path = self.path(WEIGHTS)
        try:
            with self.held(WEIGHTS), safe_open(path, framework=framework) as file:
                yield file
        except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise BadInput(
                f"{path} is not what the manifest describes ({one_line(error)})",
                "export again with --overwrite",
            ) from None

    def __repr__(self) -> str:
        """What it is and where, in a line."""
        manifest = self.manifest
        size = f"{self.model_bytes / 2**20:.1f} MiB"
        of = f"{manifest.source.label}, {manifest.precision.name}, {size}"
        return printable(f"<llx.Artifact: {of}, in {self.folder}>")

    def _repr_html_(self) -> str:
        manifest = self.manifest
        limits = manifest.contract.limits
        rows = (
            ("folder", str(self.folder)),
            ("checkpoint", f"{manifest.source.label} ({manifest.source.format})"),
            ("parameters", f"{manifest.spec.parameters:,}"),
            ("precision", manifest.precision.name),
            ("size", f"{self.model_bytes / 2**20:.1f} MiB"),
            ("cache", f"{limits.capacity} positions, up to {limits.max_rows} rows"),
            ("graphs", ", ".join(self.dialects)),
        )
        return html_table(manifest.name, (), rows)

    def intact(self, *names: str, progress: Progress = silent) -> Path:
        """Path of a file, the last of several, whose bytes are those of the manifest.

        All of them are read, once for every state that the file is in. Raises `BadInput` where they
        are others, and `Lacking` where the artifact has no such file.
        """
        for name in names:
            self._seen(name, progress)
        return self.folder / names[-1]

    def read(self, name: str) -> bytes:
        """A file's very bytes, checked. Raises as `intact` does."""
        data = self.path(name).read_bytes()
        if hashlib.sha256(data).hexdigest() != self.manifest.files[name].sha256:
            raise self._other(name)
        return data

    @contextmanager
    def held(self, *names: str) -> Iterator[None]:
        """While a runtime opens files by their names: what it finds is what was checked.

        Raises `BadInput` where a file is not the manifest's, or became another within.
        """
        states = {name: self._seen(name) for name in names}
        try:
            yield
        finally:
            for name, state in states.items():
                if not self._stands(name, state):
                    raise self._other(name)

    def _seen(self, name: str, progress: Progress = silent) -> FileState:
        """The state of a file that was read and is as the manifest says."""
        path, wanted = self.path(name), self.manifest.files[name].sha256
        try:
            found, state = seen(path, wanted, progress)
        except FileNotFoundError:
            raise self._other(name) from None
        if found != wanted:
            raise self._other(name)
        return state

    def _stands(self, name: str, state: FileState) -> bool:
        """Whether a file is still the very one that was checked."""
        try:
            return state_of(self.folder / name).same_bytes(state)
        except OSError:
            return False

    def _other(self, name: str) -> BadInput:
        """The error for a file whose bytes are not the manifest's, by why they are not."""
        try:
            now = decoded_manifest((self.folder / MANIFEST).read_bytes())
        except (OSError, *UNDECODED):
            now = self.manifest
        if now.files.get(name) != self.manifest.files[name]:
            return replaced(self.folder)
        captured = name in self.manifest.references
        remedy = "run `llx reference`" if captured else "export again with --overwrite"
        return BadInput(f"{self.folder / name} is not what was exported", remedy)

    def has(self, name: str) -> bool:
        """Whether the artifact holds a file of that name."""
        return name in self.manifest.files

    def damaged(self) -> list[str]:
        """Names of the files whose bytes are not what the manifest vouches for."""
        files = self.manifest.files.items()
        return [name for name, f in files if sha256_of(self.folder / name) != f.sha256]

    def with_new_file(self, name: str, data: bytes) -> Artifact:
        """Write a file into the folder after the export, and record it.

        A power cut leaves the file and its record as they were, or both new: the new one lies
        beside until the manifest names it, and whoever opens the artifact then finishes it. Raises
        `BadInput` where the folder holds another export by now.
        """
        record = FileRecord(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        with changing(self.folder):
            standing = self._standing()
            write_whole(beside(self.folder / name, "next"), data)
            manifest = replace(standing, files=standing.files | {name: record})
            write_manifest(self.folder, manifest)
            _finish(self.folder, manifest, name)
        return Artifact(self.folder, manifest)

    def with_checkpoint_at(self, path: str) -> Artifact:
        """Record that the checkpoint, the same one, lies elsewhere by now; see `SourceRecord`.

        Raises as `with_new_file`.
        """
        with changing(self.folder):
            standing = self._standing()
            manifest = replace(standing, source=replace(standing.source, path=path))
            write_manifest(self.folder, manifest)
        return Artifact(self.folder, manifest)

    def _standing(self) -> Manifest:
        """The manifest that stands in the folder now, which others may have added to."""
        try:
            manifest = decoded_manifest((self.folder / MANIFEST).read_bytes())
        except UNDECODED:
            raise replaced(self.folder) from None
        if Artifact(self.folder, manifest).sha256 != self.sha256:
            raise replaced(self.folder)
        return manifest


def _remedy_without(name: str) -> str:
    """What brings a file into an artifact that has none of the name."""
    if name == REFERENCE:
        return "capture it with `llx reference`"
    if name in (TOKENIZER, CHAT_TEMPLATE):
        return f"put a {name} beside the checkpoint and export again with --overwrite"
    return "export again with --overwrite, from a checkpoint and with this version of llx"


def replaced(folder: Path) -> BadInput:
    """The error for an artifact in whose place another one stands by now."""
    return BadInput(
        f"{folder} was replaced while it was used: it holds another export now",
        "run the command again",
    )


def _finish(folder: Path, manifest: Manifest, name: str) -> None:
    """Give a file that was written after the export its name, where the manifest has it already."""
    path, following = folder / name, beside(folder / name, "next")
    record = manifest.files.get(name)
    if record is None or not following.is_file() or sha256_of(following) != record.sha256:
        return  # its writer was killed before the manifest named it
    try:
        os.replace(following, path)
        sync(folder)
    except FileNotFoundError:  # another process has finished it
        return


def is_artifact(folder: Path) -> bool:
    """Whether a folder looks like an artifact: only such a folder is ever replaced."""
    return (folder / MANIFEST).is_file()


@door
def open_artifact(folder: str | Path | None = None) -> Artifact:
    """Open a folder, or the artifact exported last. Raises `BadInput` for anything but a whole one.

    Structure and sizes are checked here; the bytes of a file when it is used, and all of them by
    `Artifact.damaged`.
    """
    folder = Path(folder) if folder is not None else latest()
    if not folder.is_dir():
        if folder.is_file() and is_artifact(folder.parent):
            raise BadInput(
                f"{folder} is a file of an artifact, which is a folder", f"name {folder.parent}"
            )
        raise BadInput(
            f"{folder} is not a folder{near_in_words(folder)}",
            "name an artifact that `llx export` wrote",
        )
    require_unicode(folder)
    if not is_artifact(folder):
        raise BadInput(
            f"{folder} is not an artifact: it has no {MANIFEST}",
            "name a folder that `llx export` wrote",
        )
    data = (folder / MANIFEST).read_bytes()
    try:
        manifest = decoded_manifest(data)
    except UNDECODED as error:
        refuse_newer(folder / MANIFEST, data, "llx.artifact")
        raise BadInput(
            f"{folder / MANIFEST} is not a manifest that this version reads ({error})",
            "export again with --overwrite",
        ) from None
    for name in manifest.references:
        _finish(folder, manifest, name)
    for name, record in manifest.files.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != record.bytes:
            if is_artifact(folder) and (folder / MANIFEST).read_bytes() != data:
                return open_artifact(folder)  # another one has just taken its place
            state = "is missing" if found is None else f"has {found} bytes, not {record.bytes}"
            raise BadInput(f"{path} {state}", "export again with --overwrite")
    return Artifact(folder, manifest)


def latest() -> Path:
    """The artifact that was exported last from this folder. `BadInput` where there is none."""
    pointer = DEFAULT_ROOT / LATEST
    if pointer.is_file():
        folder = DEFAULT_ROOT / pointer.read_text().strip()
        if is_artifact(folder):
            return folder
    raise BadInput(
        "no artifact was exported from this folder yet",
        "run `llx export --size 135m`, or name an artifact's folder",
    )


def remember_latest(folder: Path) -> None:
    """Make `folder` what the commands take by default in this working directory."""
    make_folder(DEFAULT_ROOT)
    real = real_path(folder)
    name = real.name if real.parent == real_path(DEFAULT_ROOT) else str(real)
    write_whole(DEFAULT_ROOT / LATEST, f"{name}\n".encode())

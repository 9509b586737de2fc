"""A bundle that was run by hand and brought home: its folder, read as untrusted data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import msgspec

from llx.artifact import Artifact
from llx.bench.edge.collect import REMEDY, checked, collect_result
from llx.bench.speed.samples import Workload
from llx.bundle import (
    BUILD,
    MACHINE,
    OBSERVED,
    RECIPE,
    RECORD_BYTES,
    SAMPLES,
    SAMPLES_BYTES,
    BuildRecord,
    Recipe,
    SampleRecord,
    clean,
)
from llx.errors import BadInput
from llx.probe import OUT, Machine
from llx.result import Result
from llx.typed import refuse_newer

RUN = "run `python3 run.py` there, and copy its out/ into"
UNDECODED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

T = TypeVar("T")


@dataclass(frozen=True)
class Home:
    """A bundle's folder, and the recipe in it."""

    folder: Path
    recipe: Recipe
    recipe_sha256: str

    def result(self, artifact: Artifact, command: str) -> Result:
        """What was measured there. Raises `BadInput` for what is not there, or cannot be."""
        self._require_of(artifact)
        machine = checked(self._record(MACHINE, Machine))
        built = checked(self._record(BUILD, BuildRecord))
        samples = self._record(SAMPLES, SampleRecord, SAMPLES_BYTES)
        for name, recipe in ((BUILD, built.recipe), (SAMPLES, samples.recipe)):
            if recipe != self.recipe_sha256:
                raise BadInput(
                    f"{self.folder / OUT / name} is of another bundle", f"{RUN} {self.folder}"
                )
        observed = None
        sent = [name for name in artifact.manifest.references if name in self.recipe.files]
        if samples.judged and sent:
            # A token's two phases are as large as its line of the reference.
            most = 2 * sum(artifact.manifest.files[name].bytes for name in sent) + RECORD_BYTES
            observed = self._bytes(OBSERVED, most)
        return collect_result(
            *(artifact, self.recipe, machine, samples, observed),
            *(built.seconds, built.plan_bytes, command),
        )

    def _require_of(self, artifact: Artifact) -> None:
        """Raise `BadInput` unless the bundle was written for the artifact, within its limits."""
        recipe, manifest = self.recipe, artifact.manifest
        if recipe.artifact_sha256 != artifact.sha256:
            raise BadInput(
                f"{self.folder} is not a bundle of {artifact.folder}, but of another artifact, "
                f"{clean(recipe.artifact)}",
                "name that with --artifact",
            )
        fits = recipe.contract.fits(manifest.spec, manifest.precision.compute)
        if not fits or recipe.dialect not in artifact.dialects:
            raise BadInput(f"{self.folder / RECIPE} is not what was written", REMEDY)
        try:
            msgspec.convert(recipe.workload, Workload).require_fit(recipe.contract.limits)
        except msgspec.ValidationError as error:
            raise BadInput(f"{self.folder / RECIPE}: {clean(error)}", REMEDY) from None

    def _record(self, name: str, kind: type[T], most: int = RECORD_BYTES) -> T:
        try:
            return msgspec.json.decode(self._bytes(name, most), type=kind)
        except UNDECODED as error:
            raise BadInput(
                f"{self.folder / OUT / name} is not what a bundle writes ({clean(error)})", REMEDY
            ) from None

    def _bytes(self, name: str, most: int) -> bytes:
        path = self.folder / OUT / name
        data = _read(path, most)
        if data is None:
            raise BadInput(f"{path.parent} has no {name}", f"{RUN} {self.folder}")
        return data


def open_home(folder: Path) -> Home:
    """Open a bundle's folder. Raises `BadInput` where it is none."""
    if folder.name == OUT and not (folder / RECIPE).exists() and (folder.parent / RECIPE).exists():
        raise BadInput(f"{folder} is what came out of a bundle", f"name {folder.parent}")
    data = _read(folder / RECIPE, SAMPLES_BYTES)
    if data is None:
        raise BadInput(
            f"{folder} is not a bundle: it has no {RECIPE}",
            "name the folder that `llx build --device` wrote, with the out/ that came back in it",
        )
    try:
        recipe = msgspec.json.decode(data, type=Recipe)
    except UNDECODED as error:
        refuse_newer(folder / RECIPE, data, "llx.bundle")
        raise BadInput(f"{folder / RECIPE} is not a recipe ({clean(error)})", REMEDY) from None
    return Home(folder, replace(recipe, llx=clean(recipe.llx)), sha256(data).hexdigest())


def _read(path: Path, most: int) -> bytes | None:
    """A file of moderate size, or None where there is none."""
    if not path.is_file():
        return None
    if path.stat().st_size > most:
        raise BadInput(f"{path} has {path.stat().st_size} bytes, more than a bundle writes", REMEDY)
    return path.read_bytes()

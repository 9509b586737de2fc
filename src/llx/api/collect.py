"""`llx.collect`: the results of a bundle that was run by hand on another machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llx.api.results import Results
from llx.api.watching import AnyArtifact, call_in_words, opened
from llx.arguments import door
from llx.artifact import DEFAULT_ROOT, Artifact, is_artifact, latest, open_artifact
from llx.bench.edge.home import Home, open_home
from llx.bundle import clean
from llx.errors import BadInput


@door
def collect(bundle: str | Path, artifact: AnyArtifact = None) -> Results:
    """Make results of what a bundle measured on its device: raw samples, once they are home.

    The bundle is what `llx build --device` wrote, with the out/ that `run.py` made there in it.

    Args:
        bundle: The bundle's folder.
        artifact: The artifact that the bundle was written for, or its folder. None: the one under
            ./artifacts, or the one exported last.

    Returns:
        The result, judged against the artifact's reference where the bundle carried one. A
        measurement that failed there is an error in it.

    Raises:
        BadInput: No bundle, nothing measured in it, another artifact's, or numbers that cannot be.

    """
    return collected(bundle, artifact, call_in_words(collect, locals()))


def collected(bundle: str | Path, artifact: AnyArtifact, command: str) -> Results:
    """The same; `command` is what stands in the results."""
    home = open_home(Path(bundle))
    meant = opened(artifact) if artifact is not None else _artifact_of(home)
    return Results([home.result(meant, command)])


def _artifact_of(home: Home) -> Artifact:
    """The artifact that a bundle was written for. Raises `BadInput` where it is not known."""
    for folder in _folders():
        try:
            artifact = open_artifact(folder)
        except BadInput:
            continue
        if artifact.sha256 == home.recipe.artifact_sha256:
            return artifact
    raise BadInput(
        f"the artifact that {home.folder} was written for, {clean(home.recipe.artifact)}, is not "
        f"under ./{DEFAULT_ROOT}",
        "name its folder with --artifact",
    )


def _folders() -> Iterator[Path]:
    if DEFAULT_ROOT.is_dir():
        yield from sorted(path for path in DEFAULT_ROOT.iterdir() if is_artifact(path))
    try:
        yield latest()
    except BadInput:
        return

"""`llx.reference`: PyTorch's fp32 logits of a text, which every engine is judged against."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from llx.api.watching import AnyArtifact, Tell, opened, telling, watched
from llx.arguments import door
from llx.artifact import Artifact
from llx.bench.fidelity.reference import Captured, capture, read_reference
from llx.bench.session import Session
from llx.corpus import WINDOW, Bos, Corpus, Cut, corpus_of, evaluation_texts
from llx.errors import BadInput, Lacking, NotExported, require_modules
from llx.intact import content_of
from llx.places import folder_of
from llx.progress import Progress

Texts = Sequence[str | Path]


@door
def reference(
    artifact: AnyArtifact = None,
    *,
    texts: Texts = (),
    window: int | None = None,
    windows: int | None = None,
    stride: int | None = None,
    bos: Bos = "each",
    progress: Progress | None = None,
) -> Artifact:
    """Capture the PyTorch fp32 reference once; engines are judged against it anywhere.

    Another text, and the same text cut otherwise, is kept beside what was captured before.

    Args:
        artifact: An artifact or its folder. None: the one exported last.
        texts: Files of UTF-8 text to judge on. None given: half of Python's own documentation, and
            some of its code.
        window: Tokens of a window, at least 3. None: 512, or as many as the cache holds.
        windows: How many of each text; 0 for all that it has. None: up to 5.
        stride: Text tokens from one window's first to the next one's. Less than a window holds, and
            they overlap: only what no window before had is scored. None: spread over the text.
        bos: Where what the tokenizer begins a text with stands: "each" window, the "first", "none".
        progress: Called with what is done, how much of how much, and the unit. None: bars.

    Returns:
        The artifact with its reference. What was captured of the same checkpoint, for any of its
        artifacts, is not captured again.

    Raises:
        BadInput: A file that is no text, or is shorter than a window; a window that the cache does
            not hold.
        NotExported: The artifact has no tokenizer, which is a `BadInput`.
        Lacking: No PyTorch, or no checkpoint.

    """
    found = opened(artifact)
    cut = cut_for(found, window, windows, stride, bos)
    return captured(found, texts, cut, progress)[-1].artifact


def cut_for(
    artifact: Artifact, window: int | None, windows: int | None, stride: int | None, bos: str
) -> Cut:
    """How windows are cut for an artifact. Raises `BadInput` for what cannot be."""
    for option, number, least in (
        ("window", window, 3),
        ("windows", windows, 0),
        ("stride", stride, 1),
    ):
        if number is not None and number < least:
            raise BadInput(f"{option} {number} is less than {least}", f"give {least} or more")
    places = {place: place for place in get_args(Bos)}
    if bos not in places:
        raise BadInput(f"unknown place of BOS {bos!r}", f"choose one of {', '.join(places)}")
    usual = min(WINDOW, artifact.manifest.contract.limits.capacity)
    return Cut(window=window or usual, windows=windows, stride=stride, bos=places[bos])


def captured(
    artifact: Artifact, texts: Texts, cut: Cut, progress: Progress | None = None
) -> list[Captured]:
    """What was captured of each text, or of llx's own, with the artifact; see `reference`."""
    return _captured(artifact, _corpora(texts), cut, progress)


def _corpora(texts: Texts) -> Sequence[Corpus]:
    return [corpus_of(Path(text)) for text in texts] or evaluation_texts()


def _captured(
    artifact: Artifact,
    corpora: Sequence[Corpus],
    cut: Cut,
    progress: Progress | None,
) -> list[Captured]:
    checkpoint, found = _checkpoint(artifact), []
    for corpus in corpora:
        with watched(progress, "" if corpus.own else f"{corpus.name}: ") as news:
            found.append(capture(artifact, open_reference, cut, corpus, checkpoint, news))
        artifact = found[-1].artifact
    return found


def with_references(
    artifact: Artifact,
    texts: Texts = (),
    tell: Tell | None = None,
    cut: Cut | None = None,
    progress: Progress | None = None,
) -> tuple[Artifact, tuple[str, ...]]:
    """The artifact with what it is to be judged by, and the names of those references.

    That is each of the texts, by every reference that there is of it; without texts all that there
    are. What is missing is captured where it can be, and told where not. Raises `BadInput` for a
    text that cannot be read or cut.
    """
    if not texts and artifact.manifest.references:
        return artifact, artifact.manifest.references
    names: list[str] = []
    for corpus in _corpora(texts):
        held = _references_of(artifact, corpus) if cut is None else []
        if not held:
            usual = cut_for(artifact, None, None, None, "each")
            try:
                (one,) = _captured(artifact, [corpus], cut or usual, progress)
            except (Lacking, NotExported, OSError) as error:
                on = f" on {corpus.name}" if texts else ""
                telling(tell)(f"fidelity{on} is not measured: {error}")
                if texts:
                    continue
                break  # what keeps one of our own from being captured keeps the others as well
            artifact, held = one.artifact, [one.name]
        names += held
    return artifact, tuple(dict.fromkeys(names))


def _references_of(artifact: Artifact, corpus: Corpus) -> list[str]:
    return [
        name
        for name in artifact.manifest.references
        if read_reference(artifact, name).protocol.corpus_sha256 == corpus.sha256
    ]


def _checkpoint(artifact: Artifact) -> str | None:
    """What the weights are that the reference runs: the same for every artifact of a checkpoint.

    None where the checkpoint is not here as it was at the export.
    """
    record = artifact.manifest.source
    path = artifact.manifest.checkpoint_at(artifact.folder)
    if path is None or not record.files or not record.lies_at(path):
        return None
    contents = [content_of(folder_of(path) / file.path) for file in record.files]
    capacity = artifact.manifest.contract.limits.capacity
    return repr((record.format, contents, artifact.manifest.spec, capacity))


def open_reference(artifact: Artifact) -> Session:
    """PyTorch in fp32 over the checkpoint itself, else over the artifact's own fp32 weights.

    A checkpoint that has changed since the export is not used. Raises `Lacking` where there is no
    PyTorch, or neither checkpoint nor fp32 weights.
    """
    require_modules("the PyTorch reference", "export", "torch", "gguf")
    from llx.bench.sessions.torch import TorchSession
    from llx.exporter.load import exported_source, llama_from_source

    manifest = artifact.manifest
    limits = manifest.contract.limits
    try:
        source = exported_source(artifact)
        model = llama_from_source(source, limits.capacity)
    except Lacking as why:
        if manifest.precision.compute == "fp32" and manifest.precision.linear == "dense":
            return TorchSession.open(artifact)
        raise Lacking(
            f"{why.message}, and the artifact's weights are not fp32",
            f"{why.remedy}, or export it with --precision fp32",
        ) from None
    weights = f"the checkpoint {manifest.source.label}, {manifest.source.format}"
    return TorchSession(model, limits, weights=weights)

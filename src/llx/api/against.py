"""What a measurement in turns is held against: another artifact, a result's, or another engine."""

from __future__ import annotations

from pathlib import Path

from llx.artifact import DEFAULT_ROOT, Artifact, open_artifact
from llx.bench.sessions import ENGINES
from llx.errors import BadInput
from llx.files import is_plain_name
from llx.result import Result, read_results


def baseline_of(
    against: Artifact | str | Path, artifact: Artifact, engine: str
) -> tuple[Artifact, str]:
    """The artifact and the engine that `against` names, for a candidate on an engine.

    An artifact or its folder is on the candidate's engine; a file is of results, whose artifact
    must still be there; anything else is an engine, over the candidate's artifact. Raises
    `BadInput` where it is none of them.
    """
    if isinstance(against, Artifact):
        return against, engine
    if str(against) in ENGINES:
        return artifact, str(against)
    path = Path(against)
    if path.is_dir():
        return open_artifact(path), engine
    if not path.is_file():
        raise BadInput(
            f"--against {against} is no artifact's folder, no file of results and no engine",
            f"name a folder, a file of `llx bench -o json`, or one of {', '.join(ENGINES)}",
        )
    result = _result_in(path, engine)
    return _artifact_of(result, artifact, path), result.engine


def _result_in(path: Path, engine: str) -> Result:
    """The file's result of an engine, or its only one."""
    results = read_results(path)
    found = [result for result in results if result.engine == engine] or results
    if len(found) > 1:
        raise BadInput(
            f"{path} holds {len(found)} results that it may be measured against",
            "name the folder of the artifact that is meant",
        )
    return found[0]


def _artifact_of(result: Result, near: Artifact, path: Path) -> Artifact:
    """The artifact of a result: it is looked for beside another one, and by its very bytes."""
    name, sha256 = result.artifact.name, result.artifact.sha256
    if near.sha256 == sha256:
        return near
    for root in (near.folder.parent, DEFAULT_ROOT):
        if is_plain_name(name) and (root / name).is_dir():
            found = open_artifact(root / name)
            if found.sha256 == sha256:
                return found
    raise BadInput(
        f"the artifact of {path}, {sha256[:12]}…, is not here",
        "export it again, and name its folder",
    )

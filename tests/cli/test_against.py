"""`llx bench --against`: what it may name, what is shown, and when it fails."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from llx.api.against import baseline_of
from llx.api.results import Results
from llx.artifact import open_artifact
from llx.errors import BadInput
from llx.result import encode_results, read_results
from tests.cli.test_commands import fits_80_columns
from tests.conftest import export_tiny


@pytest.fixture(scope="module")
def pair(judged, tmp_path_factory):
    """Results of a small run in turns, baseline and candidate."""
    path = tmp_path_factory.mktemp("results") / "results.json"
    options = "--engine ort --against torch -p 8 -n 4 --max-repetitions 5 --no-fidelity"
    options += " --no-roofline -o json"
    with path.open("w") as file:
        command = [sys.executable, "-m", "llx", "bench", str(judged.folder), *options.split()]
        assert subprocess.run(command, stdout=file, check=False).returncode in (0, 1)
    return read_results(path)


@pytest.fixture
def artifact(judged, tmp_path):
    """An artifact of its own folder, under a root."""
    folder = tmp_path / "artifacts" / judged.folder.name
    shutil.copytree(judged.folder, folder)
    return open_artifact(folder)


def test_it_names_an_engine_over_the_same_artifact(artifact):
    assert baseline_of("torch", artifact, "ort") == (artifact, "torch")


def test_it_names_another_artifact_on_the_same_engine(artifact, judged):
    found, engine = baseline_of(str(judged.folder), artifact, "ort")
    assert (found.folder, engine) == (judged.folder, "ort")


def written(tmp_path, results):
    path = tmp_path / "before.json"
    path.write_bytes(encode_results(results))
    return str(path)


def test_it_names_the_artifact_of_a_result_by_its_bytes(artifact, pair, tmp_path):
    path = written(tmp_path, pair)
    assert baseline_of(path, artifact, "torch") == (artifact, "torch")
    other = export_tiny(tmp_path / "artifacts", "fp16")
    assert other.sha256 != artifact.sha256
    found, _ = baseline_of(path, other, "ort")
    assert found.folder == artifact.folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: replace(a, sha256="0" * 64), "the artifact of .* is not here"),
        (lambda a: replace(a, sha256="0" * 64, name="../../etc"), "is not here"),
    ],
)
def test_an_artifact_that_is_not_here_is_named(artifact, pair, tmp_path, change, message):
    gone = [replace(one, artifact=change(one.artifact)) for one in pair]
    with pytest.raises(BadInput, match=message):
        baseline_of(written(tmp_path, gone), artifact, "ort")


def test_a_file_of_several_results_leaves_no_choice_to_chance(artifact, pair, tmp_path):
    twice = [pair[0], pair[0]]
    with pytest.raises(BadInput, match="holds 2 results"):
        baseline_of(written(tmp_path, twice), artifact, "ort")


def test_what_it_names_must_be_something(artifact):
    with pytest.raises(BadInput, match="no artifact's folder, no file of results and no engine"):
        baseline_of("nothing-here", artifact, "ort")


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (("faster", "no change"), 0),
        (("inconclusive", "no change"), 0),
        (("no change", "slower"), 1),
    ],
)
def test_it_fails_where_a_test_became_slower(pair, verdicts, code):
    baseline, candidate = pair
    tests = [
        replace(test, verdict=verdict)
        for test, verdict in zip(candidate.against.tests, verdicts, strict=True)
    ]
    judged = replace(candidate, against=replace(candidate.against, tests=tests))
    assert Results([baseline, judged]).exit_code == code


def test_the_table_says_verdict_ratio_interval_noise_and_threshold(pair, capsys):
    from llx.reports.console import show_results
    from llx.reports.formats import format_named

    show_results(pair)
    shown = capsys.readouterr().out
    assert fits_80_columns(shown)
    for part in (" ×", "CI95", "noise", "threshold", "torch"):
        assert part in shown
    verdict = pair[1].against.tests[0].verdict
    assert verdict.upper() in shown
    markdown = format_named("md")(pair)
    assert f"| {verdict} | ort, {pair[1].artifact.name} | torch, " in markdown

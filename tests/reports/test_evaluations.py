"""What is printed beside an evaluation's numbers."""

from __future__ import annotations

from dataclasses import replace

from llx.evaluation import Evaluation
from llx.reports.evaluations import show_evaluations
from llx.scores import EvalSettings
from tests.reports.made import result

SETTINGS = EvalSettings(
    limit=None,
    num_fewshot=None,
    batch=1,
    capacity=96,
    chat_template=True,
    date="2026-01-31",
    fewshot_as_multiturn=True,
    allow_code=False,
    seed=0,
    fewshot_seed=1234,
    bootstrap=1000,
)
EVALUATION = Evaluation(
    llx="0.1.0",
    created="2026-01-31T00:00:00+00:00",
    command="llx eval",
    engine="ort",
    precision="fp32",
    artifact=result().artifact,
    settings=SETTINGS,
    versions={"lm-eval": "0.4.13"},
    details={},
    tasks=[],
    requests={},
    truncated=0,
    seconds=1.0,
)


def test_conversations_without_their_system_turn_are_told(capsys):
    show_evaluations([EVALUATION], "md")
    assert "system turn" not in capsys.readouterr().out
    show_evaluations([replace(EVALUATION, without_system=7)], "md")
    assert "conversations go without it" in capsys.readouterr().out

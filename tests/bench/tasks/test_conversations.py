"""Conversations of `llx eval`, against lm-eval's own Hugging Face backend."""

from __future__ import annotations

import shutil
from datetime import datetime

import pytest

pytest.importorskip("lm_eval", reason="pip install 'llx[eval]'")

from llx.artifact import open_artifact
from llx.bench.sessions import ENGINES
from llx.bench.sessions.fake import FakeSession
from llx.bench.tasks.lm import SessionLM
from llx.bench.tasks.run import run_tasks
from llx.errors import BadInput
from llx.evaluation import EvalRequest
from llx.manifest import CHAT_TEMPLATE
from tests.bench.tasks.test_evaluate import LIMITS, hf_backend, task_folder
from tests.checkpoints import TEMPLATE, TINY
from tests.conftest import vouched
from tests.conversations import FAMILIES, NOW
from tests.llama.test_model import hugging_face

pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval, datasets and accelerate warn of much


@pytest.fixture
def with_template(tiny, tmp_path):
    def made(template):
        folder = tmp_path / "artifact"
        shutil.copytree(tiny.folder, folder, dirs_exist_ok=True)
        (folder / CHAT_TEMPLATE).write_text(template)
        return vouched(type(tiny)(folder, tiny.manifest), CHAT_TEMPLATE)

    return made


@pytest.fixture(scope="module")
def model():
    return hugging_face(TINY)


S, U, A = (
    {"role": role, "content": content}
    for role, content in (("system", "Be brief."), ("user", "Why e?"), ("assistant", "Since "))
)
REFUSES = "{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
TEMPLATES = {
    "plain": TEMPLATE,
    "refuses a system turn": TEMPLATE.replace("<{{", REFUSES + "<{{"),
    "refuses all": "{{ raise_exception('no') }}",
    "divides by nothing": "{{ 1 // 0 }}",
    "llama 2": FAMILIES["llama 2"],
    "chatml": FAMILIES["chatml"],
    "thinking": FAMILIES["thinking"],
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_conversation_reads_as_in_the_hugging_face_backend(with_template, model, name):
    artifact = with_template(TEMPLATES[name])
    ours, theirs = SessionLM(artifact, FakeSession(LIMITS)), hf_backend(model, artifact)
    for chat in ([U], [S, U], [S], [U, A], [S, U, A], [S, U, A, U], [A, S]):
        for generation in (True, False):
            try:
                wanted = theirs.apply_chat_template(chat, add_generation_prompt=generation)
            except Exception:
                wanted = ""
            if not wanted:  # what renders nothing is refused here
                with pytest.raises(BadInput):
                    ours.apply_chat_template(chat, add_generation_prompt=generation)
            else:
                assert ours.apply_chat_template(chat, generation) == wanted
    ours.close()


@pytest.mark.parametrize("helper", ["{{ helper() }}", "{{ m.content.more.words }}", "{{ m + 1 }}"])
def test_a_system_turn_is_not_left_out_because_a_template_fails_on_it(with_template, helper):
    failing = TEMPLATE.replace("<{{", f"{{% if m.role == 'system' %}}{helper}{{% endif %}}<{{{{")
    lm = SessionLM(with_template(failing), FakeSession(LIMITS))
    assert lm.apply_chat_template([U])
    with pytest.raises(BadInput, match="the chat template fails"):
        lm.apply_chat_template([S, U])
    assert lm.without_system == 0


def test_conversations_that_lost_their_system_turn_are_counted(with_template):
    lm = SessionLM(with_template(TEMPLATES["refuses a system turn"]), FakeSession(LIMITS))
    for chat in ([U], [S, U], [S, U, A, U]):
        lm.apply_chat_template(chat)
    assert lm.without_system == 2
    assert lm.apply_chat_template([S, U]) == lm.apply_chat_template([U])


def test_all_conversations_are_told_one_time(with_template):
    lm = SessionLM(with_template("{{ strftime_now('%d %b %Y') }}"), FakeSession(LIMITS), now=NOW)
    assert {lm.apply_chat_template([U]) for _ in range(3)} == {"09 Mar 2026"}


def evaluated(artifact, tmp_path, **asked):
    request = EvalRequest(
        tasks=("llx_choice",), include_path=task_folder(tmp_path / "tasks"), limit=1, **asked
    )
    return run_tasks(artifact, ENGINES["ort"], request)


def test_the_record_says_which_date_the_template_was_told(tiny, tmp_path):
    found = evaluated(open_artifact(tiny.folder), tmp_path, chat=True, date="2024-02-29")
    assert found.settings.date == "2024-02-29"


def test_the_record_says_today_where_no_date_is_given(tiny, tmp_path):
    before = datetime.now().date().isoformat()
    found = evaluated(tiny, tmp_path, chat=True)
    assert before <= found.settings.date <= datetime.now().date().isoformat()


def test_without_a_template_there_is_no_date(tiny, tmp_path):
    assert evaluated(tiny, tmp_path).settings.date is None
    with pytest.raises(BadInput, match="--apply-chat-template"):
        EvalRequest(tasks=("x",), date="2024-02-29")


def test_a_date_that_is_none_is_refused_before_anything_runs():
    with pytest.raises(BadInput, match="YYYY-MM-DD"):
        EvalRequest(tasks=("x",), chat=True, date="2024-02-30")

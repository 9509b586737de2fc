"""The adapter to lm-evaluation-harness, against lm-eval's own Hugging Face backend."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lm_eval", reason="pip install 'llx[eval]'")

from lm_eval.api.instance import Instance
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llx.bench.sessions import ENGINES
from llx.bench.sessions.fake import FakeSession
from llx.bench.tasks.lm import SessionLM
from llx.bench.tasks.load import contained, load_tasks
from llx.bench.tasks.run import run_tasks
from llx.errors import BadInput
from llx.evaluation import EvalRequest
from llx.exporter.sources import open_source
from llx.graphs.contract import Limits
from llx.manifest import CHAT_TEMPLATE, TOKENIZER
from tests.checkpoints import TINY, config_of
from tests.conftest import export_tiny
from tests.llama.test_model import hugging_face

TASKS = ("llx_choice", "llx_text", "llx_last_word", "llx_answer")
FILES = Path(__file__).parents[2] / "tasks"
# Of one request, in nats.
CLOSE = 1e-3
LIMITS = Limits(capacity=96, max_new_tokens=16, max_rows=4, vocab=300)
pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval, datasets and accelerate warn of much


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return task_folder(tmp_path_factory.mktemp("tasks") / "files")


def task_folder(folder):
    """The tasks of tests/tasks, whose data lm-eval wants by absolute paths."""
    shutil.copytree(FILES, folder)
    for file in folder.glob("*.yaml"):
        file.write_text(file.read_text().replace("@FOLDER@", str(folder)))
    return folder


@pytest.fixture(scope="module")
def tiny_hf(tiny):
    return hf_backend(hugging_face(TINY), tiny)


def hf_backend(model, artifact):
    text = artifact.manifest.text
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(artifact.path(TOKENIZER)),
        bos_token=text.bos_token or None,
        eos_token=text.eos_token,
        chat_template=artifact.path(CHAT_TEMPLATE).read_text(),
    )
    capacity = artifact.manifest.contract.limits.capacity
    return HFLM(model, tokenizer=tokenizer, max_length=capacity, device="cpu", batch_size=1)


def requests(kind, *arguments):
    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


def on(artifact, engine="ort", rows=1):
    return SessionLM(artifact, ENGINES[engine].open(artifact, rows))


# Their own beginnings, the same ones, none, spaces at the end, one as long as the cache and longer.
CONTEXTS = ("", "to be", "to be ", "to bee", "x" * 80, "long " * 40)
PAIRS = tuple((context, word) for context in CONTEXTS for word in (" or not", " or", "?"))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("engine", ["ort", "torch"])
def test_likelihoods_are_those_of_the_hugging_face_backend(tiny, tiny_hf, engine, rows):
    ours, theirs = on(tiny, engine, rows), tiny_hf
    wanted = theirs.loglikelihood(requests("loglikelihood", *PAIRS), disable_tqdm=True)
    found = ours.loglikelihood(requests("loglikelihood", *PAIRS))
    assert [score for score, _ in found] == pytest.approx([s for s, _ in wanted], abs=CLOSE)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]
    assert ours.truncated == 3


@pytest.mark.parametrize("rows", [1, 2])
def test_only_what_the_model_would_say_itself_is_greedy(tiny, rows):
    lm = SessionLM(tiny, FakeSession(LIMITS, rows))
    asked = requests("loglikelihood", ("a", "bcd"), ("a", "bce"), ("a", "c" + "d" * 20), ("y", "z"))
    assert [greedy for _, greedy in lm.loglikelihood(asked)] == [True, False, False, True]


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("length", [0, 1, 95, 96, 97, 98, 400])
def test_rolling_likelihoods_are_those_of_the_hugging_face_backend(tiny, tiny_hf, length, rows):
    texts = [("the quick brown fox " * 20)[:length], "another text"]
    asked = requests("loglikelihood_rolling", *((text,) for text in texts))
    wanted = tiny_hf.loglikelihood_rolling(asked, disable_tqdm=True)
    assert on(tiny, rows=rows).loglikelihood_rolling(asked) == pytest.approx(wanted, abs=CLOSE)


@pytest.mark.parametrize("rows", [1, 3])
def test_generated_text_is_that_of_the_hugging_face_backend(tiny, tiny_hf, rows):
    options = ({"max_gen_toks": 12}, {"until": ["e", "\n"], "max_gen_toks": 30})
    asked = requests("generate_until", *((context, o) for context in CONTEXTS[1:] for o in options))
    wanted = tiny_hf.generate_until(asked, disable_tqdm=True)
    ours = on(tiny, rows=rows)
    assert ours.generate_until(asked) == wanted
    assert ours.truncated == 3
    assert any(wanted)


def test_a_chat_reads_as_in_the_hugging_face_backend(tiny, tiny_hf):
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?"},
    ]
    ours = on(tiny)
    assert ours.apply_chat_template(chat) == tiny_hf.apply_chat_template(chat)
    opened = [*chat, {"role": "assistant", "content": "Since "}]
    assert ours.apply_chat_template(opened, add_generation_prompt=False) == (
        tiny_hf.apply_chat_template(opened, add_generation_prompt=False)
    )


def test_a_shared_beginning_is_fed_once(tiny):
    session = FakeSession(LIMITS)
    context = "a" * 40
    SessionLM(tiny, session).loglikelihood(
        requests("loglikelihood", (context, "bc"), (context, "bd"), (context + "b", "cd"))
    )
    assert sum(tokens.shape[1] for tokens, _, _ in session.steps) == 41 + 2 + 2
    # Only continuations are asked for; a step of context alone gives one, as each must.
    assert sum(index.shape[1] for _, _, index in session.steps) == 2 + 2 + 2 + 2


def test_rows_of_a_batch_go_on_at_their_own_positions(tiny):
    lm = SessionLM(tiny, FakeSession(LIMITS, rows=4))
    options = {"until": ["h"], "max_gen_toks": 6}
    asked = requests("generate_until", *((text, options) for text in ("a", "dcf", "x" * 20)))
    assert lm.generate_until(asked) == ["bcdefg", "g", "yz{|}~"]


def by_backend(lm, folder, chat=False, num_fewshot=None):
    """Results of all tasks, with each request's own answer."""
    request = EvalRequest(
        tasks=TASKS, include_path=folder, chat=chat, num_fewshot=num_fewshot, multiturn=None
    )
    with contained(allow_code=False):
        loaded = load_tasks(request)
        for task in loaded["tasks"].values():
            task.set_config(key="num_fewshot", value=num_fewshot or 0)
            task.set_fewshot_seed(seed=1234)
        found = evaluate(
            lm=lm,
            task_dict=loaded,
            bootstrap_iters=0,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
        )
    answers = {
        name: [sample["resps"] for sample in samples] for name, samples in found["samples"].items()
    }
    return found["results"], answers


def assert_agree(ours, theirs):
    (results, answers), (wanted_results, wanted_answers) = ours, theirs
    assert answers.keys() == wanted_answers.keys() == set(TASKS)
    for name, wanted in wanted_answers.items():
        assert np.shape(answers[name]) == np.shape(wanted)
        for ours_, theirs_ in zip(np.ravel(answers[name]), np.ravel(wanted), strict=True):
            if name == "llx_answer":
                assert ours_ == theirs_
            else:
                assert float(ours_) == pytest.approx(float(theirs_), abs=CLOSE)
        for metric, value in wanted_results[name].items():
            if isinstance(value, float):
                assert results[name][metric] == pytest.approx(value, rel=1e-4), (name, metric)


@pytest.mark.parametrize("chat", [False, True])
def test_tasks_score_as_with_the_hugging_face_backend(tiny, tiny_hf, folder, chat):
    shots = 1 if chat else None
    assert_agree(
        by_backend(on(tiny), folder, chat, shots), by_backend(tiny_hf, folder, chat, shots)
    )


def smollm2_hf(artifact):
    """In fp64: transformers' own fp32 is as far from that as 1.2e-3 on a text of 70 tokens."""
    source = open_source(artifact.manifest.checkpoint_at(artifact.folder))
    spec = artifact.manifest.spec
    config = LlamaConfig(**config_of(spec) | {"eos_token_id": artifact.manifest.text.eos_ids[0]})
    model = LlamaForCausalLM(config).eval()
    missing, unexpected = model.load_state_dict(
        {name: source.read(name) for name in source.tensors}, strict=False
    )
    assert (missing, unexpected) == (["lm_head.weight"], [])
    model.tie_weights()
    return hf_backend(model.double(), artifact)


@pytest.mark.slow
@pytest.mark.parametrize("chat", [False, True])
def test_smollm2_scores_as_with_the_hugging_face_backend(smollm2, folder, chat):
    shots = 2 if chat else None
    theirs = by_backend(smollm2_hf(smollm2), folder, chat, shots)
    ours = by_backend(on(smollm2), folder, chat, shots)
    assert_agree(ours, theirs)
    if not chat:
        assert ours[1]["llx_answer"][0][0] == [" Paris"]


def test_a_run_says_what_decided_its_numbers(tiny, folder):
    request = EvalRequest(
        tasks=TASKS, include_path=folder, limit=2, batch=2, command="llx eval --limit 2"
    )
    found = run_tasks(tiny, ENGINES["ort"], request)
    assert [task.task for task in found.tasks] == list(TASKS)
    assert found.artifact.sha256 == tiny.sha256
    assert found.requests == {
        "loglikelihood": 6 + 2,
        "loglikelihood_rolling": 2,
        "generate_until": 2,
    }
    assert (found.settings.limit, found.settings.batch, found.settings.capacity) == (2, 2, 96)
    assert found.versions["lm-eval"]
    choice, text = found.tasks[:2]
    assert (choice.version, choice.documents, choice.of, choice.fewshot) == ("1.0", 2, 5, 0)
    assert [metric.metric for metric in choice.metrics] == ["acc", "acc_norm"]
    assert choice.metrics[0].higher_is_better
    assert [metric.stderr for metric in text.metrics] == [None, None]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_gen_toks": 96}, "generates 96 tokens"),
        ({"num_beams": 4}, "num_beams"),
        ({"do_sample": True, "temperature": 1.0, "top_k": 3}, "top_k"),
    ],
)
def test_generation_that_cannot_be_done_is_refused(tiny, options, words):
    with pytest.raises(BadInput, match=words):
        on(tiny).generate_until(requests("generate_until", ("hi", options)))


def test_a_continuation_beyond_the_cache_is_refused(tiny):
    with pytest.raises(BadInput, match="has 97 tokens"):
        on(tiny).loglikelihood(requests("loglikelihood", ("hi", "x" * 97)))


def test_a_tokenizers_own_bos_is_not_put_twice(tmp_path):
    from tokenizers.processors import TemplateProcessing

    artifact = export_tiny(tmp_path)
    lm = on(artifact)
    end = lm.prefix_token_id
    lm._tokenizer.post_processor = TemplateProcessing(
        single="<end> $A", special_tokens=[("<end>", end)]
    )
    lm._tokenizer.add_special_tokens(["<end>"])
    assert lm.tok_encode("hi") == lm.tok_encode("<end>hi") == [end, *lm.tok_encode("hi", False)]


def test_the_adapter_needs_no_pytorch(tiny, folder):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from llx.artifact import open_artifact\n"
        "from llx.bench.tasks.run import run_tasks\n"
        "from llx.evaluation import EvalRequest\n"
        "from llx.bench.sessions import ENGINES\n"
        f"request = EvalRequest(tasks={TASKS!r}, include_path=Path({str(folder)!r}), limit=1)\n"
        f"run_tasks(open_artifact(Path({str(tiny.folder)!r})), ENGINES['ort'], request)\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "[]\n"

"""A session as lm-evaluation-harness's language model.

Numbers are to be those of lm-eval's own Hugging Face backend on the same weights: the same tokens,
the same windows, the same rules for what is too long.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import lm_eval.utils
import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from numpy.typing import NDArray

from llx.artifact import Artifact
from llx.bench.chat import ChatTemplate, ConversationRefused
from llx.bench.clock import timed_step
from llx.bench.fidelity.observed import log_sum_exp
from llx.bench.generate import Sampling, choose
from llx.bench.sessions import Session
from llx.bench.speed import steps
from llx.bench.text import tokenizer_of
from llx.corpus import require_known
from llx.errors import BadInput, GateFailed, NotExported
from llx.evaluation import CHAT_OPTION
from llx.progress import Progress, silent
from llx.tokenizer import decode, encode

MOST_NEW = 256  # tokens, where a task names no number: as in the Hugging Face backend
BLOCK = 64  # positions whose logits are normalised at once
IDLE_WHEN_GREEDY = {"top_p", "top_k", "min_p", "typical_p"}


class SessionLM(TemplateLM):  # type: ignore[misc]
    """A session as lm-eval's language model. `now` is the time that a chat template is told.

    `truncated` counts what was cut from the left, `without_system` the conversations whose system
    turn the chat template refused, and which therefore go without it.
    """

    def __init__(
        self,
        artifact: Artifact,
        session: Session,
        progress: Progress = silent,
        now: datetime | None = None,
    ) -> None:
        super().__init__()
        self._artifact, self._session, self._progress = artifact, session, progress
        self._tokenizer = tokenizer_of(artifact)
        text = artifact.manifest.text
        self._ends = set(text.eos_ids if text else ())
        named = [self._tokenizer.token_to_id(name) for name in _special(artifact)]
        self._bos, self._eos = named
        if self._eos is None and self._ends:
            self._eos = min(self._ends)
        self._held: list[int] = []  # what the cache of a session of one row holds
        self._rng = np.random.default_rng(DEFAULT_OTHER_SEED)
        self._chat = ChatTemplate(artifact, CHAT_OPTION, now)
        self.truncated = self.without_system = 0

    @property
    def max_length(self) -> int:
        """Positions that one context can have."""
        return self._session.limits.capacity

    @property
    def eot_token_id(self) -> int:
        """The token at which text ends."""
        if self._eos is None:
            raise NotExported(
                f"{self._artifact.folder} knows neither BOS nor EOS, and a text of no context "
                "needs one before it",
                "export from a checkpoint with a tokenizer_config.json",
            )
        return int(self._eos)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has no context: BOS, else EOS."""
        return self.eot_token_id if self._bos is None else int(self._bos)

    @property
    def tokenizer_name(self) -> str:
        """Whose tokenizer this is."""
        return self._artifact.manifest.name

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Tokens of a text, with the tokenizer's own BOS unless the text begins with it."""
        if add_special_tokens is None:
            bos = self._tokenizer.id_to_token(self.prefix_token_id)
            add_special_tokens = not has_bos_prefix(string, bos)
        ids = encode(self._tokenizer, string, add_special_tokens)
        if ids:
            require_known(max(ids), self._session.limits.vocab)
        return ids

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as text; without a generation prompt its last message is left open."""
        written = self._chat.render if add_generation_prompt else self._chat.left_open
        try:
            return written(chat_history)
        except ConversationRefused:
            rest = [message for message in chat_history if message["role"] != "system"]
            if len(rest) == len(chat_history):
                raise
            text = written(rest)  # as the Hugging Face backend does
            self.without_system += 1
            return text

    def close(self) -> None:
        """End what renders conversations."""
        self._chat.close()

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether it is what greedy decoding gives."""
        scores: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return scores

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Log-likelihood of each whole text, in windows as long as the cache."""
        windows, owners = [], []
        for owner, request in enumerate(requests):
            cut = lm_eval.utils.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for window in map(lm_eval.utils.make_disjoint_window, cut):
                windows.append((("", ""), *window))
                owners.append(owner)
        sums = [0.0] * len(requests)
        scores = self._loglikelihood_tokens(windows, what="windows")
        for owner, (score, _) in zip(owners, scores, strict=True):
            sums[owner] += score
        return sums

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        what: str = "continuations",
        **_: Any,
    ) -> list[tuple[float, bool]]:
        rows = [self._scored_row(context, wanted) for _, context, wanted in requests]
        scores = [(0.0, True)] * len(rows)
        for group in self._groups([len(row) for row, _ in rows], what):
            sums, greedy = [0.0] * len(group), [True] * len(group)
            targets = [np.array(rows[i][1]) for i in group]
            done = [0] * len(group)
            fed = self._feed([rows[i][0] for i in group], [len(wanted) for wanted in targets])
            for row, logits in fed:
                for at in range(0, len(logits), BLOCK):
                    block = logits[at : at + BLOCK]
                    wanted = targets[row][done[row] : done[row] + len(block)]
                    done[row] += len(block)
                    chosen = block[np.arange(len(block)), wanted].astype(np.float64)
                    sums[row] += float((chosen - log_sum_exp(block)).sum())
                    greedy[row] &= bool((block.argmax(-1) == wanted).all())
            for place, i in enumerate(group):
                scores[i] = sums[place], greedy[place]
        if not np.isfinite([score for score, _ in scores]).all():
            raise GateFailed(
                "the engine's logits are not finite",
                "the precision cannot hold this model: export with --precision fp32 or bf16",
            )
        return scores

    def _scored_row(self, context: list[int], wanted: list[int]) -> tuple[list[int], list[int]]:
        """What is fed, all but the last token, and what each of its last positions should give."""
        if not wanted:
            raise BadInput(
                "a task asks for the likelihood of no token at all",
                "give its continuations text of their own, beyond spaces",
            )
        if len(wanted) > self.max_length:
            raise BadInput(
                f"a continuation has {len(wanted)} tokens, and the cache {self.max_length} "
                "positions",
                "export with a larger --context, where the model knows more positions",
            )
        whole = (context or [self.prefix_token_id]) + wanted
        self.truncated += len(whole) > self.max_length + 1
        return whole[-(self.max_length + 1) :][:-1], wanted

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Text that continues each prompt up to a stop sequence, an end token or a length."""
        jobs = [self._generation(*request.args) for request in requests]
        texts = [""] * len(jobs)
        for group in self._groups([len(job.prompt) for job in jobs], "answers"):
            for i, text in zip(group, self._generated([jobs[i] for i in group]), strict=True):
                texts[i] = text
        return texts

    def _generation(self, context: str, options: dict[str, Any]) -> _Generation:
        kwargs = dict(normalize_gen_kwargs(options, MOST_NEW))
        eos = self._tokenizer.id_to_token(self.eot_token_id)
        until = handle_stop_sequences(kwargs.pop("until", None), eos=eos)
        most = int(kwargs.pop("max_gen_toks"))
        sampled = bool(kwargs.pop("do_sample"))
        temperature = float(kwargs.pop("temperature", 1.0))
        top_p = float(kwargs.pop("top_p", 1.0)) if sampled else 1.0
        unknown = set(kwargs) - (set() if sampled else IDLE_WHEN_GREEDY)
        if unknown:
            raise BadInput(
                f"a task generates with {', '.join(sorted(unknown))}, which llx does not know",
                "choose tasks that generate with temperature and top_p alone",
            )
        room = self.max_length - most
        if room < 1:
            raise BadInput(
                f"a task generates {most} tokens, and the cache has {self.max_length} positions",
                "export with a larger --context, where the model knows more positions",
            )
        prompt = self.tok_encode(context) or [self.prefix_token_id]
        self.truncated += len(prompt) > room
        sampling = Sampling(temperature=temperature if sampled else 0.0, top_p=top_p)
        return _Generation(prompt[-room:], until, most, sampling)

    def _generated(self, jobs: list[_Generation]) -> list[str]:
        """Decode a row for each job, every one at a position of its own."""
        out: list[list[int]] = [[] for _ in jobs]
        texts, live = [""] * len(jobs), set(range(len(jobs)))

        def take(row: int, logits: NDArray[np.float32]) -> None:
            job, token = jobs[row], choose(logits, jobs[row].sampling, self._rng)
            out[row].append(token)
            if token not in self._ends:
                texts[row] = decode(self._tokenizer, out[row])
            stopped = token in self._ends or any(stop in texts[row] for stop in job.until if stop)
            if stopped or len(out[row]) >= job.most:
                live.discard(row)

        for row, logits in self._feed([job.prompt for job in jobs], [1] * len(jobs)):
            take(row, logits[-1])
        # A row that is done, or of no job, gets its last token again at the same place.
        last = np.zeros((self._session.rows, 1), np.int64)
        positions = np.zeros_like(last)
        while live:
            for row in live:
                last[row], positions[row] = out[row][-1], len(jobs[row].prompt) + len(out[row]) - 1
            timed_step(self._session, last, positions, np.zeros_like(last))
            logits_now = self._session.logits()
            for row in sorted(live):
                take(row, logits_now[row, 0])
        return [
            postprocess_generated_text(text, job.until, None)
            for text, job in zip(texts, jobs, strict=True)
        ]

    def _groups(self, lengths: list[int], what: str) -> Iterator[list[int]]:
        """Which requests are fed together; each is done when the next is asked for.

        One at a time they stay in order, where neighbours share their beginning; rows of a batch
        are as long as the longest, so those go by length.
        """
        rows, total = self._session.rows, len(lengths)
        order = sorted(range(total), key=lambda i: -lengths[i]) if rows > 1 else range(total)
        for at in range(0, total, rows):
            self._progress(what, at, total, "request")
            yield list(order[at : at + rows])
        self._progress(what, total, total, "request")

    def _feed(
        self, rows: list[list[int]], wanted: list[int]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Feed rows, padded on the right, and yield the logits of their last `wanted` positions.

        In order for each row, as (row, logits [n, V]), valid until the next. What the cache of a
        session of one row holds already is not fed again.
        """
        start = 0
        if self._session.rows == 1:
            start = min(_shared(self._held, rows[0]), len(rows[0]) - wanted[0])
            self._held = rows[0]
        if not start:
            self._session.reset()
        tokens = np.zeros((self._session.rows, max(map(len, rows))), np.int64)
        for row, ids in enumerate(rows):
            tokens[row, : len(ids)] = ids
        for part, positions in steps.chunks(self._session, tokens[:, start:], start):
            first, after = int(positions[0, 0]), int(positions[0, -1]) + 1
            picked = [
                range(max(len(ids) - count, first) - first, min(len(ids), after) - first)
                for ids, count in zip(rows, wanted, strict=True)
            ]
            index = np.zeros((len(part), max(1, *map(len, picked))), np.int64)
            for row, places in enumerate(picked):
                index[row, : len(places)] = places
            timed_step(self._session, part, positions, index)
            logits = self._session.logits()
            yield from ((row, logits[row, : len(p)]) for row, p in enumerate(picked) if p)


@dataclass(frozen=True)
class _Generation:
    """A prompt's tokens and how it goes on."""

    prompt: list[int]
    until: list[str]
    most: int
    sampling: Sampling


def _shared(a: list[int], b: list[int]) -> int:
    """How many tokens two sequences begin with alike."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def _special(artifact: Artifact) -> tuple[str, str]:
    """BOS and EOS as the tokenizer spells them; empty where there is none."""
    text = artifact.manifest.text
    return (text.bos_token, text.eos_token) if text else ("", "")

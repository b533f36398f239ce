"""EleutherAI's lm-evaluation-harness on a model of ours: its tasks, our weights.

Imported only with `--lm-eval`: it needs the extra `[eval]`.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from farflung.data.tokenizer import Tokenizer
from farflung.errors import UserError
from farflung.evaluate.likelihood import Request, cut_between, likelihoods
from farflung.model.generate import Sampling, stream
from farflung.model.llama import Llama
from farflung.trained.speaking import TextStream, until

REPLY_TOKENS = 256
"""Of a generated answer, where a task does not say."""


class HarnessModel(TemplateLM):  # type: ignore[misc]  # the harness carries no types
    """What the harness calls a model. Its base class encodes; this one scores and generates.

    As its own adapter of transformers' models does, with nothing before a context: the exported
    model gets the same figures there, unless a token crosses the border of a pair.
    """

    def __init__(self, model: Llama, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._model = model
        self._tokenizer = tokenizer

    @property
    def eot_token_id(self) -> int:
        return self._tokenizer.eos

    @property
    def max_length(self) -> int:
        return self._model.config.seq_len

    def tok_encode(self, string: str, **_: Any) -> list[int]:
        return self._tokenizer.encode(string)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """As the base class, which puts spaces at the border into the continuation; but a token
        that would cross the border never leaves the continuation without any."""
        plain = context.rstrip()
        return cut_between(self._tokenizer, plain, context[len(plain) :] + continuation)

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Requests are (texts, context ids, continuation ids); the context may be one token."""
        found = likelihoods(self._model, [Request(c, k) for _, c, k in requests])
        return [(f.nats, f.greedy) for f in found]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts: every token once, with as long a context as fits."""
        del disable_tqdm
        totals = []
        for request in requests:
            (text,) = request.args
            parts = self._windows([self.eot_token_id, *self.tok_encode(text)])
            totals.append(sum(f.nats for f in likelihoods(self._model, parts)))
        return totals

    def _windows(self, tokens: list[int]) -> list[Request]:
        T = self.max_length
        return [
            Request(tokens[at : at + 1], tokens[at + 1 : at + 1 + T])
            for at in range(0, len(tokens) - 1, T)
        ]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy unless a task asks for sampling; ends at its stop words or the document's end."""
        del disable_tqdm
        return [self._generate(*request.args) for request in requests]

    def _generate(self, context: str, settings: dict[str, Any]) -> str:
        stops = settings.get("until") or []
        stops = [stops] if isinstance(stops, str) else list(stops)
        sampling = Sampling(
            temperature=float(settings.get("temperature", 1.0)) if settings.get("do_sample") else 0,
            top_p=float(settings.get("top_p", 1.0)),
            top_k=int(settings.get("top_k", 0)),
        )
        limit = int(settings.get("max_gen_toks", REPLY_TOKENS))
        prompt = self.tok_encode(context) or [self.eot_token_id]
        return "".join(until(self._pieces(prompt, limit, sampling), stops))

    def _pieces(self, prompt: list[int], limit: int, sampling: Sampling) -> Any:
        text = TextStream(self._tokenizer)
        for token in islice(stream(self._model, prompt, sampling), limit):
            if token == self.eot_token_id:
                break
            yield text.push(token)
        yield text.flush()


def run_harness(
    model: Llama,
    tokenizer: Tokenizer,
    tasks: Sequence[str],
    *,
    include: Path | None = None,
    limit: int | None = None,
) -> dict[str, dict[str, Any]]:
    """Results by task. `include`: a folder of yaml files with further tasks.

    Raises UserError for an unknown task, or data that cannot be fetched.
    """
    manager = TaskManager(include_path=None if include is None else str(include))
    known = set(manager.all_tasks)
    for task in tasks:
        if task not in known:
            raise UserError(
                f"lm-eval has no task {task!r}; `lm_eval ls tasks` lists them, and --tasks-from "
                f"DIR adds your own"
            )
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            found = simple_evaluate(
                model=HarnessModel(model, tokenizer),
                tasks=list(tasks),
                task_manager=manager,
                limit=limit,
                bootstrap_iters=0,
                log_samples=False,
            )
    except (OSError, ConnectionError) as error:
        raise UserError(f"lm-eval could not load the data of {', '.join(tasks)}: {error}") from None
    results: dict[str, dict[str, Any]] = found["results"]
    return results

"""Likelihoods against the definition, bits per byte against the trainer's own, the suite's rules,
and the harness with a task of our own."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from trained_samples import SEQ_LEN, TEXT, llama_spec, made, play

from farflung.data.shards import open_rows
from farflung.data.tokenizer import ByteTokenizer, load_tokenizer
from farflung.errors import ConfigError, CorruptState, UserError
from farflung.evaluate.likelihood import Request, cut_between, encode_pair, likelihoods
from farflung.evaluate.suite import parse_questions, questions, suite_scores
from farflung.evaluate.texts import held_out_score, read_text, text_score
from farflung.inner.loss import evaluate
from farflung.model.llama import Llama
from farflung.trained.sources import resolve

BYTES = ByteTokenizer()
BPE = load_tokenizer("bpe-1024")


@pytest.fixture(scope="module")
def model() -> Llama:
    return made(scale=4.0).llama()


def by_definition(model: Llama, context: list[int], continuation: list[int]) -> float:
    """One forward pass of one row, in fp64."""
    row = torch.tensor([context + continuation])
    logits = model(row[:, :-1])[0].double()
    log_p = torch.log_softmax(logits, -1)[len(context) - 1 :]
    return float(sum(log_p[i, t] for i, t in enumerate(continuation)))


def test_likelihoods_are_the_sums_of_log_probabilities(model: Llama) -> None:
    generator = torch.Generator().manual_seed(0)
    requests = []
    for n, k in [(1, 1), (5, 3), (30, 34), (2, 40), (1, 64), (63, 1)]:
        tokens = torch.randint(0, 257, (n + k,), generator=generator).tolist()
        requests.append(Request(tokens[:n], tokens[n:]))
    seen: list[tuple[int, int]] = []
    found = likelihoods(model, requests, lambda *progress: seen.append(progress))
    for request, result in zip(requests, found, strict=True):
        expected = by_definition(model, list(request.context), list(request.continuation))
        assert result.nats == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert seen[-1] == (len(requests), len(requests))


def test_many_rows_are_scored_in_batches_as_one_by_one(model: Llama) -> None:
    requests = [Request([256, i], [(i * 7) % 256] * (1 + i % 50)) for i in range(150)]
    alone = [likelihoods(model, [r])[0] for r in requests[:20]]
    together = likelihoods(model, requests)[:20]
    for one, other in zip(alone, together, strict=True):
        assert one.nats == pytest.approx(other.nats, rel=1e-4, abs=1e-4)


def test_greedy_says_whether_each_token_was_the_likeliest(model: Llama) -> None:
    row = [256, 65, 66]
    likeliest = int(model(torch.tensor([row]))[0, -1].argmax())
    other = (likeliest + 1) % 257
    found = likelihoods(model, [Request(row, [likeliest]), Request(row, [other])])
    assert [f.greedy for f in found] == [True, False]


def test_a_context_that_is_too_long_loses_its_beginning(model: Llama) -> None:
    context, continuation = list(range(200)), [1, 2, 3]
    cut = likelihoods(model, [Request(context[-(SEQ_LEN - 2) :], continuation)])[0]
    assert likelihoods(model, [Request(context, continuation)])[0] == cut


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (Request([], [1]), "at least one token"),
        (Request([1], []), "at least one token"),
        (Request([1], [2] * (SEQ_LEN + 1)), "longer than the model's rows of 64"),
    ],
)
def test_what_cannot_be_scored_is_refused(model: Llama, request_: Request, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        likelihoods(model, [request_])


@pytest.mark.parametrize("tokenizer", [BYTES, BPE])
def test_a_pair_is_encoded_as_one_text(tokenizer: Any) -> None:
    for context, continuation in [("The sun", " rises"), ("fi", "re"), ("", "word"), ("a ", "b")]:
        pair = encode_pair(tokenizer, context, continuation)
        assert pair.context[0] == tokenizer.eos
        assert tokenizer.decode(pair.continuation) == continuation
        assert tokenizer.decode(pair.context) == context


def test_a_token_that_would_cross_the_border_does_not() -> None:
    crossing = [
        (q.context, c)
        for q in questions()
        for c in q.choices
        if len(BPE.encode(q.context + c)) <= len(BPE.encode(q.context))
    ]
    assert crossing
    for context, choice in crossing:
        before, after = cut_between(BPE, context, choice)
        assert after and BPE.decode(before + after) == context + choice


# ---- bits per byte -------------------------------------------------------------------------


def test_a_text_in_rows_is_scored_as_the_definition_says(model: Llama) -> None:
    text = TEXT[: 2 * SEQ_LEN + 10]
    tokens = [BYTES.eos, *BYTES.encode(text)]
    nats, at = 0.0, 0
    while at < len(tokens) - 1:
        nats -= by_definition(model, tokens[at : at + 1], tokens[at + 1 : at + 1 + SEQ_LEN])
        at += SEQ_LEN
    score = text_score(model, BYTES, text, "fox")
    assert score.n_bytes == len(text.encode()) == score.tokens
    assert score.bits_per_byte == pytest.approx(nats / math.log(2) / score.n_bytes, rel=1e-4)


def test_a_model_that_knows_nothing_needs_log2_of_the_vocabulary() -> None:
    blank = made(tied=False).llama()
    blank.lm_head.weight.zero_()
    score = text_score(blank, BYTES, TEXT, "fox")
    assert score.bits_per_byte == pytest.approx(math.log2(257))


def test_bpe_text_counts_bytes_not_tokens() -> None:
    blank = made("bpe-1024", tied=False).llama()
    blank.lm_head.weight.zero_()
    score = text_score(blank, BPE, TEXT, "fox")
    assert score.n_bytes == len(TEXT.encode()) > score.tokens
    assert score.bits_per_byte == pytest.approx(10 * score.tokens / score.n_bytes)


def test_held_out_rows_are_those_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = play(tmp_path, llama_spec(), 1)
    monkeypatch.setenv("FARFLUNG_HOME", str(run.home))
    found = resolve("llama")
    assert found.data is not None
    model, table = found.llama(), open_rows(run.data).held_out
    seen: list[tuple[int, int]] = []
    score = held_out_score(model, found.data, lambda *progress: seen.append(progress))
    nats, bits = evaluate(model, (table[i] for i in range(len(table))), table.text_bytes)
    assert (score.nats_per_token, score.bits_per_byte) == (nats, bits)
    assert score.tokens == len(table) * SEQ_LEN and seen[-1] == (len(table), len(table))
    other = made("bpe-1024").llama()
    held_out_score(other, found.data)  # byte ids are below 1024: legal, if of no use
    small = made(seq_len=32).llama()
    with pytest.raises(UserError, match="rows of 64 tokens of 257, the model takes 32 of 257"):
        held_out_score(small, found.data)


def test_a_text_that_is_none_is_refused(model: Llama, tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8 text"):
        read_text(tmp_path / "latin.txt")
    with pytest.raises(UserError, match="cannot read"):
        read_text(tmp_path / "nowhere.txt")
    with pytest.raises(ConfigError, match="is empty"):
        text_score(model, BYTES, "", "nothing")


# ---- the suite -----------------------------------------------------------------------------


def test_the_suite_is_sound() -> None:
    asked = questions()
    assert 40 <= len(asked) <= 100
    families = {q.family for q in asked}
    assert len(families) >= 5
    for question in asked:
        assert len(set(question.choices)) == len(question.choices)
        assert question.context and all(question.choices)
    for family in families:  # the right one is not always at one place
        members = [q for q in asked if q.family == family]
        assert len({q.answer for q in members}) > 1
    assert len({(q.context, q.choices) for q in asked}) == len(asked)


QUESTIONS = [
    b'{"family":"one","context":"ab","choices":["c","dd"],"answer":0}',
    b'{"family":"one","context":"ab","choices":["c","dd"],"answer":1}',
    b'{"family":"two","context":"x","choices":["y","z","w","v"],"answer":2}',
]


def test_scores_are_by_family_with_chance() -> None:
    blank = made(tied=False).llama()
    blank.lm_head.weight.zero_()  # each token costs the same: the shorter choice wins by sum
    one, two, all_ = suite_scores(blank, BYTES, parse_questions(QUESTIONS))
    assert (one.family, one.questions, one.by_sum, one.chance) == ("one", 2, 0.5, 0.5)
    assert (two.family, two.questions, two.chance) == ("two", 1, 0.25)
    assert all_.family == "all" and all_.questions == 3
    assert all_.chance == pytest.approx((0.5 + 0.5 + 0.25) / 3)
    assert one.by_byte == 0.5  # a tie per byte


def test_the_answer_wins_when_the_model_knows_it() -> None:
    model = made(tied=False).llama()
    model.lm_head.weight.zero_()
    model.lm_head.weight[ord("w")] = model.hidden(torch.tensor([[256, ord("x")]]))[0, -1]
    (two,) = [
        s for s in suite_scores(model, BYTES, parse_questions(QUESTIONS)) if s.family == "two"
    ]
    assert two.by_sum == two.by_byte == 1.0


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b'{"family":"a"}', "line 1 of the questions is malformed"),
        (b'{"family":"a","context":"b","choices":["c","d"],"answer":2}', "names no choice"),
        (b'{"family":"a","context":"b","choices":["c"],"answer":0}', "names no choice"),
    ],
)
def test_a_malformed_question_is_named(line: bytes, sentence: str) -> None:
    with pytest.raises(CorruptState, match=sentence):
        parse_questions([line])


# ---- the harness ---------------------------------------------------------------------------

HARNESS = """
import json, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from types import SimpleNamespace
from trained_samples import TEXT, made
from farflung.errors import UserError
from farflung.evaluate.harness import HarnessModel, run_harness
from farflung.evaluate.likelihood import Request, encode_pair, likelihoods
from farflung.evaluate.texts import text_score

model = made("bpe-1024", scale=4.0)
llama, tokenizer = model.llama(), model.need_tokenizer()
adapter = HarnessModel(llama, tokenizer)
ask = lambda *args: SimpleNamespace(args=args)
pairs = [("The fox", " jumps"), ("", "abc")]
scored = adapter.loglikelihood([ask(*p) for p in pairs], disable_tqdm=True)
plain = likelihoods(llama, [Request(tokenizer.encode("The fox"), tokenizer.encode(" jumps")),
                            Request([tokenizer.eos], tokenizer.encode("abc"))])
long = TEXT[:200]
rolling = adapter.loglikelihood_rolling([ask(long)])[0]
bits = text_score(llama, tokenizer, long, "long")
text = adapter.generate_until([ask("The", {"until": ["\\n"], "max_gen_toks": 12})])[0]
again = adapter.generate_until([ask("The", {"until": [text[3]], "max_gen_toks": 12})])[0]
try:
    run_harness(llama, tokenizer, ["no_such_task"])
    unknown = ""
except UserError as error:
    unknown = str(error)
results = run_harness(llama, tokenizer, ["foxes"], include=Path(sys.argv[2]))
print(json.dumps(dict(scored=scored, plain=plain, rolling=rolling,
    nats=bits.nats_per_token * bits.tokens, text=text, again=again, unknown=unknown,
    results=results)))
"""

TASK = """task: foxes
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
metric_list:
  - metric: acc
  - metric: acc_norm
"""


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="no lm-eval")
@pytest.mark.slow
def test_the_harness_runs_a_local_task_on_the_model(tmp_path: Path) -> None:
    data = tmp_path / "foxes.jsonl"
    shipped = questions()  # among them some whose border a token would cross
    data.write_text(
        "".join(
            json.dumps({"context": q.context, "choices": q.choices, "answer": q.answer}) + "\n"
            for q in shipped
        )
    )
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "foxes.yaml").write_text(TASK.format(data=data))
    done = subprocess.run(
        [sys.executable, "-c", HARNESS, str(Path(__file__).parent), str(tmp_path / "tasks")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for mine, theirs in zip(found["plain"], found["scored"], strict=True):
        assert theirs == pytest.approx(mine)
    assert found["rolling"] == pytest.approx(-found["nats"])
    assert 3 < len(found["text"]) <= 12 * 8
    assert found["again"] == found["text"][: found["text"].index(found["text"][3])]
    assert "no task 'no_such_task'" in found["unknown"]
    model = made("bpe-1024", scale=4.0)
    right = 0  # lm-eval puts nothing before the context
    for q in shipped:
        requests = [Request(*cut_between(BPE, q.context, c)) for c in q.choices]
        nats = [f.nats for f in likelihoods(model.llama(), requests)]
        right += nats.index(max(nats)) == q.answer
    assert found["results"]["foxes"]["acc,none"] == pytest.approx(right / len(shipped))

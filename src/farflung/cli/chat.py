"""`farflung chat`: take turns with a trained model."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from farflung.cli.generate import Seed, Temperature, TopP, show
from farflung.cli.loading import Source, described, load, ready
from farflung.errors import UserError


def chat(
    run: Source,
    tokens: Annotated[int, typer.Option(help="At most so many tokens in an answer.")] = 100,
    temperature: Temperature = 0.8,
    top_p: TopP = 0.95,
    seed: Seed = 0,
    you: Annotated[str, typer.Option(help="Your name in the transcript.")] = "User",
    me: Annotated[str, typer.Option(help="The model's name in the transcript.")] = "Assistant",
) -> None:
    """Talk with a model, line by line. An empty line or Ctrl-D ends it; Ctrl-C cuts an answer.

    A model of farflung is a base model: it goes on with a transcript of two speakers, and was not
    taught to answer. What it says is only as much of a conversation as its text had some.

    Examples:

      farflung chat my-run

      farflung chat my-model --you ROMEO --me JULIET
    """
    from farflung.model.generate import Sampling
    from farflung.trained.speaking import Conversation

    if tokens < 1:
        raise UserError(f"--tokens {tokens} must be at least 1")
    sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed)
    model = load(run)
    talk = Conversation(ready(model), model.need_tokenizer(), (you, me))
    typer.echo(f"{described(model)}: a base model, which goes on with a transcript", err=True)
    turn = 0
    while said := _line(you):
        pieces = talk.answer(said, tokens, Sampling(**{**vars(sampling), "seed": seed + turn}))
        typer.echo(f"{me}:", nl=False)
        try:
            for piece in pieces:
                show(piece)
        except KeyboardInterrupt:
            typer.echo(" ...", nl=False)
        typer.echo()
        turn += 1


def _line(you: str) -> str:
    if sys.stdin.isatty():
        sys.stdout.write(f"{you}: ")
        sys.stdout.flush()
    return sys.stdin.readline().strip()

"""`farflung generate`: text from a trained model, as it is drawn."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from farflung.cli.loading import Source, harmless, load, ready
from farflung.errors import UserError

Temperature = Annotated[
    float, typer.Option(help="0 takes the likeliest token; 1 draws as the model says.")
]
TopP = Annotated[float, typer.Option(help="Draw among the likeliest of this share together.")]
Seed = Annotated[int, typer.Option(help="The same seed draws the same text.")]


def generate(
    run: Source,
    prompt: Annotated[
        str | None,
        typer.Option(help="Text to go on from; `-` or none with a pipe: from stdin."),
    ] = None,
    tokens: Annotated[int, typer.Option(help="At most so many new tokens.")] = 200,
    temperature: Temperature = 0.8,
    top_p: TopP = 0.95,
    seed: Seed = 0,
    echo: Annotated[bool, typer.Option(help="Print the prompt before what follows it.")] = True,
) -> None:
    """Go on with a text, token by token, until the model ends the document.

    Examples:

      farflung generate my-run --prompt "To be, or"

      farflung generate my-model --temperature 0 --tokens 50 < letter.txt
    """
    from farflung.model.generate import Sampling
    from farflung.trained.speaking import continue_text

    if tokens < 1:
        raise UserError(f"--tokens {tokens} must be at least 1")
    sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed)
    text = _prompt(prompt)
    model = load(run)
    llama = ready(model)
    pieces = continue_text(llama, model.need_tokenizer(), text, tokens, sampling)
    if echo:
        typer.echo(text, nl=False)
    for piece in pieces:
        show(piece)
    typer.echo()


def show(piece: str) -> None:
    """Print a model's words at once; a terminal gets none that it would obey."""
    typer.echo(harmless(piece) if sys.stdout.isatty() else piece, nl=False)
    sys.stdout.flush()


def _prompt(given: str | None) -> str:
    if given is not None and given != "-":
        return given
    if given is None and sys.stdin.isatty():
        return ""
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise UserError("the prompt on stdin is not UTF-8 text; convert it") from None

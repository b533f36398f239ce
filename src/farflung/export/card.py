"""README.md of an exported model: what it is and how it came to be, from the run's own records."""

from __future__ import annotations

from farflung.config.run import RunSpec
from farflung.model.presets import parameter_count
from farflung.trained.model import TrainedModel
from farflung.words import counted

MOST_NAMES = 50
"""Contributors in the table; the rest are counted."""


def model_card(
    model: TrainedModel, dtype: str, licence: str, bits_per_byte: float | None = None
) -> str:
    """Markdown with the front matter of Hugging Face's hub."""
    parts = [
        _front(model, licence),
        f"# {model.name}\n",
        _intro(model),
        _use(model),
        _training(model, dtype, bits_per_byte),
        _contributors(model),
        _licence(licence),
    ]
    return "\n".join(p for p in parts if p)


def _front(model: TrainedModel, licence: str) -> str:
    library = "library_name: transformers\npipeline_tag: text-generation\n" if model.config else ""
    return f"---\nlicense: {licence}\n{library}tags:\n- farflung\n- diloco\n---\n"


def _intro(model: TrainedModel) -> str:
    if model.config is None:
        return (
            "Trained with farflung by a program of its owner. The tensors have the names that the "
            "program gave them; `config.json` and code to run them are theirs to bring.\n"
        )
    c = model.config
    return (
        f"A base language model of {parameter_count(c):,} parameters ({c.layers} layers of width "
        f"{c.dim}, {c.heads} query and {c.kv_heads} key heads, rows of {c.seq_len} tokens), "
        f"trained with farflung on machines that are far apart. It goes on with a text; it was "
        f"not taught to follow instructions.\n"
    )


def _use(model: TrainedModel) -> str:
    if model.config is None or model.tokenizer is None:
        return ""
    return (
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        "tokenizer = AutoTokenizer.from_pretrained(FOLDER)\n"
        "model = AutoModelForCausalLM.from_pretrained(FOLDER)\n"
        'inputs = tokenizer("Once", return_tensors="pt")\n'
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=50)[0]))\n"
        "```\n"
    )


def _training(model: TrainedModel, dtype: str, bits_per_byte: float | None) -> str:
    h = model.history
    rows = [
        ("run", f"{model.name} ({model.run})" if model.run else ""),
        ("rounds committed", f"{h.rounds:,} ({h.abandoned:,} abandoned)" if h.rounds else ""),
        ("last round in these weights", f"{model.round}" if model.round >= 0 else ""),
        ("tokens trained", f"{h.tokens:,}" if h.tokens else ""),
        ("training loss, last round", "" if h.loss is None else f"{h.loss:.4f} nats per token"),
        ("held-out text", "" if bits_per_byte is None else f"{bits_per_byte:.4f} bits per byte"),
        *_of_spec(model.spec),
        ("origin of the text", _cell(model.provenance)),
        ("weights", dtype),
        ("state hash", f"`{model.state_root}`" if model.state_root else ""),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows if value)
    return f"## Training\n\n| | |\n|---|---|\n{table}\n"


def _of_spec(spec: RunSpec | None) -> list[tuple[str, str]]:
    if spec is None:
        return []
    outer, inner = spec.outer, spec.inner
    return [
        ("data source", _cell(spec.data.source)),
        ("tokenizer", _cell(spec.data.tokenizer)),
        ("model preset", spec.model.preset),
        ("inner optimizer", f"{inner.optimizer}, {inner.batch_rows} x {spec.data.seq_len} tokens"),
        (
            "outer step",
            f"Nesterov, lr {outer.lr:g}, momentum {outer.momentum:g}, every {outer.inner_steps} "
            f"inner steps, {counted(outer.fragments, 'fragment')}, {outer.codec}",
        ),
        ("seed", f"{spec.seed}"),
    ]


def _contributors(model: TrainedModel) -> str:
    people = model.history.contributors
    if not people:
        return ""
    rows = "\n".join(
        f"| {_cell(p.name)} | {p.rounds:,} | {p.tokens:,} |" for p in people[:MOST_NAMES]
    )
    rest = len(people) - MOST_NAMES
    more = f"\nand {rest:,} more.\n" if rest > 0 else ""
    return f"## Contributors\n\n| peer | rounds | tokens |\n|---|---|---|\n{rows}\n{more}"


def _licence(licence: str) -> str:
    said = (
        f"The licence of this model was given as `{licence}` by whoever exported it."
        if licence != "unknown"
        else "No licence was given when this model was exported: ask whoever publishes it."
    )
    return f"## Licence\n\n{said} The licence of the training text is its owner's matter.\n"


def _cell(text: str) -> str:
    """A table's cell: a peer chooses its own name."""
    plain = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    return plain if len(plain) <= 100 else f"{plain[:99]}…"

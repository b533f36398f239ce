"""farflung: train one language model on computers that are far apart."""

__version__ = "0.1.0"

"""Trainers that others wrote, in a farflung run: the Hugging Face Trainer, Lightning, DataLoaders.

Each batch carries the row numbers of its samples under `ROWS`, and they are credited when the
optimizer step that used them has ended. Nothing here is imported by farflung itself.
"""

"""Why a model is not packaged."""

from __future__ import annotations


class ModelError(Exception):
    """The model cannot be packaged as asked; the message says why, and what to do about it."""

"""Janus and Janus-Pro in plain PyTorch: one transformer that reads pictures and draws them.

>>> import janus_core
>>> janus = janus_core.load("janus-mini")
>>> pictures = janus.decode(janus.generate("a red circle", count=4, seed=7))  # float [4, H, W, 3] in 0..1
"""

from .checkpoints import DEFAULT_CHECKPOINT, load
from .editing import edit
from .errors import CheckpointError, InputError
from .pipeline import Janus
from .processing import Turn
from .repainting import code_mask, repaint, vary
from .thinking import think, think_and_draw
from .tokens import ImageTokens

__all__ = [
    "DEFAULT_CHECKPOINT",
    "CheckpointError",
    "ImageTokens",
    "InputError",
    "Janus",
    "Turn",
    "code_mask",
    "edit",
    "load",
    "repaint",
    "think",
    "think_and_draw",
    "vary",
]

"""The errors of this package. Each message is one sentence: what is wrong, why, and the cure."""

import torch


class CheckpointError(ValueError):
    """A checkpoint, its config or its tokenizer cannot be used as a Janus model."""


class InputError(ValueError):
    """A prompt, picture, token set or setting is outside what the model can take."""


class MemoryExhaustedError(torch.OutOfMemoryError):
    """A device's memory ran out. As PyTorch's own exception, it makes a host free memory."""


def size_text(count: float) -> str:
    """A number of bytes as messages say it: in GB, or in MB if it is less than one."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def shown(text: object, limit: int = 200) -> str:
    """What a file says, for a message: one printable line of at most `limit` characters."""
    text = str(text)
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:limit])
    return line if len(text) <= limit and len(line) <= limit else f"{line[: limit - 1]}…"


def first_few(names: list[str]) -> str:
    """The first three names, each `shown`, and how many more there are."""
    few = ", ".join(shown(name, limit=150) for name in names[:3])
    return few + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def context_exceeded(what: str, *, used: int, new: int, limit: int, cure: str) -> InputError:
    """The error for a prompt of `used` tokens that leaves no room for `new` ones in a context of `limit`."""
    return InputError(
        f"The {what} takes {used} tokens and {new} more are needed, {used + new} in all, but the model holds "
        f"{limit}: {cure}."
    )

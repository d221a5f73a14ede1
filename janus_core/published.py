"""The published models: where they are, how large their files are, and the sizes in which they differ."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Published:
    """A model on Hugging Face.

    `size` is the approximate download size in bytes. `language` holds the sizes that its `language_config` lists.
    """

    repo: str
    size: int
    language: Mapping[str, int]

    @property
    def name(self) -> str:
        """The repository's name without its owner, which is also the name of its folder here."""
        return self.repo.rpartition("/")[2]


_ONE_BILLION = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
}
PUBLISHED = (
    Published(repo="deepseek-ai/Janus-Pro-1B", size=4_200_000_000, language=_ONE_BILLION),
    Published(repo="deepseek-ai/Janus-Pro-7B", size=14_800_000_000, language={"num_hidden_layers": 30}),
    Published(repo="deepseek-ai/Janus-1.3B", size=4_200_000_000, language=_ONE_BILLION),
)

"""The published models: where they are, how large their files are, their licences, and the sizes in which they differ."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Published:
    """A model on Hugging Face.

    `size` is the approximate download size in bytes, None where it is not known. `language` holds the sizes that its
    `language_config` lists. `licence` is what its authors say of the weights.
    """

    repo: str
    size: int | None
    language: Mapping[str, int]
    licence: str = "DeepSeek Model License"

    @property
    def name(self) -> str:
        """The repository's name without its owner, which is also the name of its folder here."""
        return self.repo.rpartition("/")[2]

    @property
    def label(self) -> str:
        """How a list names it as long as it is not here."""
        return f"{self.name} (download, {'7B' if self.size is None else f'{self.size / 1e9:.1f} GB'})"


_SEVEN_BILLION = {"num_hidden_layers": 30}
_ONE_BILLION = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
}
PUBLISHED = (
    Published(repo="deepseek-ai/Janus-Pro-1B", size=4_200_000_000, language=_ONE_BILLION),
    Published(repo="deepseek-ai/Janus-Pro-7B", size=14_800_000_000, language=_SEVEN_BILLION),
    Published(repo="deepseek-ai/Janus-1.3B", size=4_200_000_000, language=_ONE_BILLION),
)
# Janus-Pro-7B, fine-tuned. What each wants to be told is in dialects.py, which knows them by these names.
FINE_TUNES = tuple(
    Published(repo=repo, size=None, language=_SEVEN_BILLION, licence=licence)
    for repo, licence in (
        ("FreedomIntelligence/Janus-4o-7B", "see its page"),
        ("CaraJ/T2I-R1", "for research purposes only"),
        ("midbee/Janus-Pro-R1-7B", "none stated"),
        ("Franklin0/ReasonGen-R1", "see its page"),
        ("Franklin0/ReasonGen-R1-SFT", "see its page"),
        ("wendell0218/Janus-FocusDiff-7B", "none stated"),
    )
)
DOWNLOADS = PUBLISHED + FINE_TUNES

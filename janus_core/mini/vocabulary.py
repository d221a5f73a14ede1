"""The mini's tokenizer: one token per word, and Janus's special tokens under their real names.

The system prompt that precedes every question is one token too: it never changes.
"""

from itertools import chain

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from ..processing import BEGIN_OF_IMAGE, BOS, END_OF_IMAGE, EOS, IMAGE_TAG, PAD, SYSTEM_PROMPT
from .prompts import BACKWARD_RELATIONS, FORWARD_RELATIONS, NUMBERS, OPENINGS, plural
from .questions import COLOUR_WORDS, ORDINALS, PICTURE_WORDS
from .world import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES

UNKNOWN = "<unk>"
ROLES = ("<|User|>", "<|Assistant|>")
SPECIAL = (BOS, EOS, PAD, UNKNOWN, BEGIN_OF_IMAGE, END_OF_IMAGE, IMAGE_TAG, *ROLES)
TABLES = (
    *(SHAPES, COLOURS, SIZES, BACKGROUNDS, PLACES),
    *(NUMBERS, OPENINGS, FORWARD_RELATIONS, BACKWARD_RELATIONS),
    *(ORDINALS, COLOUR_WORDS, PICTURE_WORDS),
)
# The words of prompts, questions and answers that are in no table.
OTHER_WORDS = """
    , after an and are at background big comes describe detail do does has have how in is it look many no nothing objects
    on see shape shapes size the there this to what where which yes you
"""
LATER_WORDS = ("match", "description")  # after all others, whose ids the weights had before


def all_words() -> list[str]:
    """The words of the world's prompts, questions and answers but LATER_WORDS, sorted."""
    phrases = (OTHER_WORDS, *map(plural, SHAPES), *chain.from_iterable(TABLES))
    return sorted({word for phrase in phrases for word in phrase.split()})


def build_tokenizer() -> Tokenizer:
    """Lower case, punctuation other than the comma dropped; a word outside the vocabulary becomes `<unk>`."""
    ids = {word: i for i, word in enumerate((*SPECIAL, SYSTEM_PROMPT, *all_words(), *LATER_WORDS))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(Regex(r"[.:;!?\"'()]"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer.add_special_tokens([AddedToken(word, normalized=False) for word in (*SPECIAL, SYSTEM_PROMPT)])
    return tokenizer

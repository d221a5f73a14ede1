"""The mini's tokenizer: one token a word, Janus's special tokens under their real names.

The system prompt that precedes every question is one token too: it never changes, so it is one word to the mini.
"""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from ..processing import BEGIN_OF_IMAGE, BOS, END_OF_IMAGE, EOS, IMAGE_TAG, PAD, SYSTEM_PROMPT
from .captions import all_words

UNKNOWN = "<unk>"
ROLES = ("<|User|>", "<|Assistant|>")
SPECIAL = (BOS, EOS, PAD, UNKNOWN, BEGIN_OF_IMAGE, END_OF_IMAGE, IMAGE_TAG, *ROLES)


def build_tokenizer() -> Tokenizer:
    """Lower case, punctuation other than the comma dropped; a word the world does not know becomes `<unk>`."""
    words = [*SPECIAL, SYSTEM_PROMPT, *all_words()]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    strip = normalizers.Replace(Regex(r"[.:;!?\"'()]"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), strip])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer.add_special_tokens([AddedToken(word, normalized=False) for word in (*SPECIAL, SYSTEM_PROMPT)])
    return tokenizer

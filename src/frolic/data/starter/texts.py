"""The sentences that the starter's tokenizer and text encoder learn from."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from frolic.data.compose import PALETTE
from frolic.data.starter.concepts import Concept

PAD, EOS, BOS, UNK = "<pad>", "<eos>", "<bos>", "<unk>"
PLAIN = "white"
"""The background that a caption does not mention."""


def with_background(caption: str, colour: str) -> str:
    return caption if colour == PLAIN else f"{caption} on a{'n' if colour[0] in 'aeiou' else ''} {colour} background"


def sentences(concepts: Sequence[Concept]) -> list[str]:
    """Every caption on every background, every keyword, and pairs of things; each once, in a fixed order."""
    captions = [caption for concept in concepts for caption in concept.captions]
    keywords = [word for concept in concepts for word in concept.keywords]
    firsts = [concept.captions[0] for concept in concepts]
    shifted = firsts[len(firsts) // 3 :] + firsts[: len(firsts) // 3]
    pairs = [f"{a} and {b}" for a, b in zip(firsts, shifted, strict=True)]
    coloured = [with_background(c, colour) for c, colour in itertools.product(captions, PALETTE)]
    extra = [f"{colour} {word}" for word in dict.fromkeys(keywords) for colour in ("red", "blue")]
    return list(dict.fromkeys(text.lower() for text in (*coloured, *keywords, *pairs, *extra, "")))


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE, so that no prompt is unknown to it, with Gemma's special tokens and a leading ``<bos>``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, EOS, BOS, UNK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer

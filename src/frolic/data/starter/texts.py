"""The sentences that the starter's tokenizer and text encoder learn from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from frolic.data.compose import PALETTE, PLAIN
from frolic.data.starter.anchors import short
from frolic.data.starter.captions import with_article
from frolic.data.starter.concepts import Concept
from frolic.data.starter.synonyms import bare, plural
from frolic.data.starter.wordnet import ADJECTIVE, NOUN, VERB, WordNet

PAD, EOS, BOS, UNK = "<pad>", "<eos>", "<bos>", "<unk>"

_LONG = 14
_WEIGHT = 30
_PLAIN = re.compile(r"[a-z]{2,}(?: [a-z]{2,})?")
_ARTICLE = re.compile(r"^(?:an?|the) ")
_SLOT = re.compile(r"\{(\w+)\}")
_SIZES = ("big", "large", "huge", "small", "tiny", "little", "old", "new", "cute", "wooden", "round", "tall")
_COLOURS = (
    *PALETTE, "crimson", "scarlet", "maroon", "ruby", "coral", "amber", "golden", "silver", "beige", "tan", "cream",
    "ivory", "emerald", "olive", "lime", "mint", "turquoise", "cyan", "aqua", "azure", "navy", "indigo", "violet",
    "lavender", "lilac", "magenta", "rose", "peach", "bronze", "charcoal", "grey", "dark blue", "light blue",
    "dark green", "light green", "dark red", "bright red", "pale yellow",
)  # fmt: skip
_FORMS = {
    "{thing}": 6,
    "{dyed}": 10,
    "{thing} on a {colour} background": 8,
    "{dyed} on a {colour} background": 3,
    "{thing} on grass": 2,
    "{thing} in the night sky": 1.5,
    "{thing} in the sky": 1.5,
    "{thing} on the sea": 1.5,
    "{thing} in a room": 1.5,
    "flat icon of {thing}": 2,
    "noto style {thing}": 2,
    "{thing} and {thing}": 14,
    "{dyed} and {dyed}": 4,
    "{thing}, {thing} and {thing}": 2,
    "{thing} to the left of {thing}": 3,
    "{thing} to the right of {thing}": 3,
    "{thing} above {thing}": 3,
    "{thing} below {thing}": 3,
    "{thing} under {thing}": 1,
    "{thing} next to {thing}": 3,
    "{thing} in front of {thing}": 2,
    "{thing} behind {thing}": 2,
    "two {many}": 4,
    "three {many}": 4,
    "four {many}": 4,
    "a cute picture of {thing}": 1,
}
"""Forms of composed sentences, and how often each is taken."""


def with_background(caption: str, colour: str) -> str:
    return caption if colour == PLAIN else f"{caption} on a{'n' if colour[0] in 'aeiou' else ''} {colour} background"


@dataclass(frozen=True)
class Vocabulary:
    """Words that a prompt may have: nouns that can be drawn, those in use (``common``) and the others (``rare``), and
    ``plain`` words of any other kind. ``single`` are the common ones that deserve a token of their own."""

    common: tuple[str, ...]
    rare: tuple[str, ...]
    plain: tuple[str, ...]
    single: tuple[str, ...]


def vocabulary(net: WordNet, pieces: Callable[[Sequence[str]], Sequence[int]]) -> Vocabulary:
    """Single words, and two-word nouns that are common; the most common first.

    ``pieces`` counts the tokens that a large tokenizer cuts each word into: what it has whole is in wide use, which
    WordNet's small tagged texts know of few words. Words of more than two pieces are left out.
    """

    def drawable(word: str, senses: int) -> bool:
        found = net.senses(word)[:senses]
        return any(sense.field and word in (lemma.lower() for lemma in sense.words) for sense in found)

    nouns = [word for word in net.words(NOUN) if _PLAIN.fullmatch(word)]
    parts = dict(zip(nouns, pieces(nouns), strict=True))
    common = [
        word
        for word in nouns
        if (net.count(word) and parts[word] <= 2 and drawable(word, 3))
        or (parts[word] == 1 and " " not in word and drawable(word, 2))
    ]
    kept = set(common)
    rare = [
        word
        for word in nouns
        if word not in kept and " " not in word and parts[word] <= 2 and len(word) <= _LONG and drawable(word, 1)
    ]
    kept |= set(rare)
    words = [(word, part) for part in (NOUN, ADJECTIVE, VERB) for word in net.words(part) if net.count(word, part)]
    others = [w for w in dict.fromkeys(w for w, _ in words) if w not in kept and " " not in w and _PLAIN.fullmatch(w)]
    plain = [word for word, count in zip(others, pieces(others), strict=True) if count == 1]
    single = [word for word in common if parts[word] == 1 and net.count(word)]
    return Vocabulary(tuple(common), tuple(rare), tuple(plain), tuple(single))


def nouns(concepts: Iterable[Concept]) -> set[str]:
    """What is drawn, without article: each caption, and what is in the cup of a "cup of tea"."""
    names = {bare(text) for concept in concepts for text in (*concept.captions, *concept.synonyms)}
    return names | {name.rpartition(" of ")[2] for name in names}


def sentences(
    concepts: Sequence[Concept],
    net: WordNet,
    words: Vocabulary,
    count: int,
    scene_captions: Sequence[str] = (),
    seed: int = 0,
) -> list[str]:
    """What prompts are made of; each once, in lower case and in a fixed order.

    All that the concepts are called, the vocabulary word by word, definitions of its common things, the captions of
    scenes as the image model is trained with, and ``count`` of our own making, in which any noun may stand: a word
    without a picture must be understood beside others, too.
    """
    known = [text for concept in concepts for text in (*concept.captions, *concept.synonyms)]
    keywords = [word for concept in concepts for word in (concept.name, *concept.keywords)]
    plurals = [concept.plural for concept in concepts if concept.plural]
    nouns = [with_article(word) for word in (*words.common, *words.rare)]
    glosses = [short(sense.gloss) for word in words.common for sense in net.senses(word)[:2] if sense.field]
    rng = Random(seed)
    composed = [_composed(rng, known, plurals, words) for _ in range(count)]
    every = (*known, *keywords, *plurals, *nouns, *words.common, *words.plain, *_COLOURS, *glosses)
    return list(dict.fromkeys(text.lower() for text in (*every, *scene_captions, *composed, "")))


def _composed(rng: Random, known: Sequence[str], plurals: Sequence[str], words: Vocabulary) -> str:
    def thing() -> str:
        roll = rng.random()
        if roll < 0.45:
            return rng.choice(known)
        name = rng.choice(words.rare if roll >= 0.9 and words.rare else words.common)
        if rng.random() < 0.3:
            return with_article(f"{rng.choice((*_SIZES, *_COLOURS, *_COLOURS))} {name}")
        return with_article(name)

    def many() -> str:
        return rng.choice(plurals) if plurals and rng.random() < 0.6 else plural(rng.choice(words.common))

    def dyed() -> str:
        return with_article(f"{rng.choice(_COLOURS)} {_ARTICLE.sub('', thing())}")

    form, weight = zip(*_FORMS.items(), strict=True)
    (text,) = rng.choices(form, weight)
    fill = {"thing": thing, "many": many, "dyed": dyed, "colour": lambda: rng.choice(tuple(PALETTE))}
    return re.sub(r"\ba (?=orange background)", "an ", _SLOT.sub(lambda match: fill[match[1]](), text))


def train_tokenizer(texts: Sequence[str], vocabulary: int, single: Sequence[str] = ()) -> Tokenizer:
    """A byte-level BPE, so that no prompt is unknown to it, with Gemma's special tokens and a leading ``<bos>``.

    Each of ``single`` counts as if it stood in ``_WEIGHT`` more texts: what a word means can be learnt from few
    sentences where it is one token, and hardly where it is three that other words share.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, EOS, BOS, UNK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *(_WEIGHT * list(single))], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer

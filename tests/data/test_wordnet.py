from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from frolic.data.starter import wordnet
from frolic.data.starter.anchors import Anchor, anchor, short
from frolic.data.starter.wordnet import WordNet, parse

LICENCE = "  1 This software and database is being provided to you, the LICENSEE, by\n"
NOUNS = """\
00000001 05 n 02 animal 0 fauna 0 000 | a living organism
00000002 05 n 03 dog 0 domestic_dog 0 Canis_familiaris 0 001 @ 00000001 n 0000 | one of the genus Canis; "it barked"
00000003 05 n 01 puppy 0 001 @ 00000002 n 0000 | a young dog; usually small
00000004 06 n 02 car 0 auto 0 000 | a motor vehicle with four wheels
00000005 06 n 02 car 0 gondola 0 000 | the compartment that hangs from an airship
00000006 09 n 01 puppy 0 000 | an inexperienced young person
00000007 06 n 02 caterpillar 0 cat 0 000 | a large tracked vehicle
00000008 05 n 01 cat 0 001 @ 00000001 n 0000 | a feline mammal
"""
ADJECTIVES = "00000001 00 a 02 red 0 ruddy(p) 0 000 | of the colour of blood\n"
SENSES = """\
animal%1:05:00:: 00000001 1 12
car%1:06:00:: 00000004 1 71
car%1:06:02:: 00000005 2 2
auto%1:06:00:: 00000004 1 2
cat%1:05:00:: 00000008 1 18
cat%1:06:00:: 00000007 2 0
caterpillar%1:06:00:: 00000007 1 0
dog%1:05:00:: 00000002 1 42
puppy%1:18:00:: 00000006 2 0
puppy%1:05:00:: 00000003 1 2
red%5:00:00:chromatic:00 00000001 1 9
quickly%4:02:00:: 00000001 1 9
"""


@pytest.fixture
def net(tmp_path: Path) -> WordNet:
    path = tmp_path / "wordnet.tgz"
    files = {"data.noun": LICENCE + NOUNS, "data.verb": LICENCE, "data.adj": ADJECTIVES, "index.sense": SENSES}
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"package/dict/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return wordnet.read(path)


def test_meanings_come_in_their_order_with_counts(net: WordNet) -> None:
    young, person = net.senses("Puppy")
    assert young.words == ("puppy",) and young.field == "animal" and young.gloss == "a young dog; usually small"
    assert person.field == ""
    assert net.count("car") == 73 and net.count("puppy") == 2 and net.count("zebra") == 0
    assert net.words()[:2] == ["car", "dog"]
    assert net.senses("quickly") == () and net.words("a") == ["red"]


def test_names_keep_their_capitals_and_adjectives_lose_their_position(net: WordNet) -> None:
    assert net.senses("dog")[0].words == ("dog", "domestic dog", "Canis familiaris")
    assert parse(ADJECTIVES.strip(), "a").words == ("red", "ruddy")
    assert net.senses("dog")[0].gloss == "one of the genus Canis"


def test_what_is_above(net: WordNet) -> None:
    puppy = net.senses("puppy")[0]
    assert [up.words[0] for up in net.above(puppy, 2)] == ["dog", "animal"]
    assert [up.words[0] for up in net.above(puppy, 1)] == ["dog"]


def test_an_anchor_is_the_nearest_thing_that_is_drawn(net: WordNet) -> None:
    assert anchor("puppy", net, {"dog", "animal"}) == Anchor("a dog", "a young dog")
    assert anchor("puppy", net, {"animal"}) == Anchor("an animal", "a young dog")
    assert anchor("puppies", net, {"dog"}) is None, "no form that WordNet lists"
    assert anchor("auto", net, {"car"}) == Anchor("a car", "a motor vehicle with four wheels")
    assert anchor("auto", net, set()) is not None
    assert anchor("dog", net, {"dog"}) is None, "drawn things stay where they are"


def test_a_word_s_rare_meaning_is_no_anchor(net: WordNet) -> None:
    found = anchor("caterpillar", net, {"cat"})
    assert found is not None and found.kind != "a cat"


def test_a_gloss_is_cut() -> None:
    assert short("a young dog; usually small") == "a young dog"
    assert len(short("a very long definition that goes on and on and on without end").split()) == 8

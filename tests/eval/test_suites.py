from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from frolic.data.compose import PALETTE
from frolic.data.heldout import reserved
from frolic.errors import RequestError
from frolic.eval.suites import LANDSCAPES, RELATIONS, SINGLE_EVERYDAY, SIZE, SUITES, Known, suite


def test_suites_ask_for_reserved_combinations_only(many: Sequence[Known]) -> None:
    for name in ("two", "position"):
        assert all(reserved("pair", *case.codes) for case in suite(name, many))
    assert all(reserved("count", case.codes[0], str(case.count)) for case in suite("count", many) if case.count > 1)
    assert all(reserved("colour", case.codes[0], case.colour) for case in suite("colour", many))
    assert all(reserved("ground", case.codes[0], case.ground) for case in suite("background", many))


def test_the_same_prompts_every_time_and_in_any_order_of_calls(many: Sequence[Known]) -> None:
    first = {name: suite(name, many) for name in SUITES if name not in (SINGLE_EVERYDAY, "synonym")}
    assert all(suite(name, many) == cases for name, cases in reversed(first.items()))
    assert all(len(first[name]) == SIZE for name in ("two", "count", "colour", "position", "style", "background"))
    assert len(first["single"]) == len(many)


def test_every_number_relation_and_ground_is_asked_for(many: Sequence[Known]) -> None:
    numbers = Counter(case.count for case in suite("count", many))
    assert numbers == {1: 50, 2: 50, 3: 50, 4: 50}
    relations = Counter(case.relation for case in suite("position", many))
    assert set(relations) == set(RELATIONS) and max(relations.values()) - min(relations.values()) <= 1
    grounds = Counter(case.ground in LANDSCAPES for case in suite("background", many))
    assert grounds == {False: 120, True: 80}
    assert {case.style for case in suite("style", many)} == {"flat", "noto"}
    assert {case.count for case in suite("count", many, 8)} == {1, 2, 3, 4}
    assert {case.relation for case in suite("position", many, 12)} == set(RELATIONS)


def test_prompts_read_as_a_user_types_them() -> None:
    dog = Known("c1", "dog", "a dog", "dog", "dogs", "", True, ("flat", "noto"))
    ox = Known("c2", "ox", "an ox", "ox", "oxen", "red", True)
    others = [Known(f"x{i}", f"x{i}", f"a thing{i}", f"thing{i}", f"thing{i}s", "red", True) for i in range(40)]
    prompts = {
        name: {case.prompt for case in suite(name, [dog, ox, *others])}
        for name in SUITES
        if name not in (SINGLE_EVERYDAY, "synonym")
    }
    assert "one dog" in prompts["count"]
    assert prompts["style"] == {"flat icon of a dog", "noto style dog"}
    assert all(prompt.split()[0] in ("one", "two", "three", "four") for prompt in prompts["count"])
    assert any(" to the left of " in prompt for prompt in prompts["position"])
    assert all(" background" in p or p.endswith(tuple(LANDSCAPES.values())) for p in prompts["background"])
    assert not any(prompt.startswith("a orange") for prompt in prompts["colour"])


def test_a_thing_is_not_asked_for_in_its_own_colour(many: Sequence[Known]) -> None:
    own = {concept.code: concept.colour for concept in many}
    cases = suite("colour", many)
    assert all(own[case.codes[0]] not in ("", case.colour) and case.colour in PALETTE for case in cases)


def test_a_limit_takes_evenly_spaced_prompts(many: Sequence[Known]) -> None:
    cases = suite("two", many)
    assert suite("two", many, 4) == [cases[0], cases[50], cases[100], cases[150]]
    assert suite("two", many, 1000) == cases


def test_unknown_suites_bad_limits_and_nothing_to_ask(many: Sequence[Known]) -> None:
    with pytest.raises(RequestError, match="did you mean 'single-everyday'"):
        suite("single-everday", many)
    with pytest.raises(RequestError, match="--limit"):
        suite("two", many, 0)
    with pytest.raises(RequestError, match="newer training set"):
        suite("style", [Known("c", "c", "a c")])


def test_any_of_a_synonyms_concepts_is_right(many: Sequence[Known]) -> None:
    dogs = [Known("1f415", "dog", "a dog"), Known("1f436", "dog face", "a dog's face")]
    cases = suite("synonym", dogs)
    assert cases and all(set(case.accepted) <= {"1f415", "1f436"} for case in cases)
    assert any(len(case.accepted) == 2 for case in cases)

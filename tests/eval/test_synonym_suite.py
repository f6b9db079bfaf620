from __future__ import annotations

import json
import re
from importlib import resources

from frolic.data.starter.concepts import everyday_prompts
from frolic.data.starter.synonyms import unseen, uses_unseen

ROWS = json.loads(resources.files("frolic").joinpath("eval/synonyms.json").read_text("utf-8"))


def test_plain_prompts_that_each_ask_with_a_word_of_their_own() -> None:
    assert 150 <= len(ROWS) <= 200
    assert len({row["prompt"] for row in ROWS}) == len(ROWS)
    assert len(unseen()) == len(ROWS)
    assert all(re.fullmatch(r"[a-z][a-z' -]{2,30}", row["prompt"]) for row in ROWS)
    assert all(uses_unseen(row["prompt"]) for row in ROWS)


def test_rows_are_well_formed() -> None:
    for row in ROWS:
        assert row.keys() <= {"code", "prompt", "codes", "word"}
        assert row["code"] in row.get("codes", [row["code"]])
        assert len(set(row.get("codes", []))) == len(row.get("codes", []))
        assert row.get("word", "") in row["prompt"]


def test_no_everyday_prompt_uses_such_a_word() -> None:
    assert not [prompt for prompt in everyday_prompts().values() if uses_unseen(prompt)]

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from frolic.errors import CheckpointError
from frolic.io.problems import Problems
from frolic.io.tokenizer import Tokenizer, find_tokenizer

BOS = 2


@pytest.fixture
def tokenizer(tiny_folder: Path) -> Tokenizer:
    return Tokenizer(tiny_folder / "tokenizer" / "tokenizer.json")


def test_prompts_are_padded_on_the_right(tokenizer: Tokenizer) -> None:
    ids, mask = tokenizer.encode(["a red panda", "", "a red panda eating ramen under the moon on a green field"], 8)
    assert ids.shape == mask.shape == (3, 8) and ids.dtype == torch.int64 and mask.dtype == torch.bool
    assert (ids[:, 0] == BOS).all()
    assert mask[0].tolist() == sorted(mask[0].tolist(), reverse=True)
    assert ids[0][~mask[0]].eq(0).all()
    assert mask[1].tolist() == [True] + [False] * 7
    assert mask[2].all()


def test_tokens_are_counted_before_they_are_cut(tokenizer: Tokenizer) -> None:
    assert tokenizer.count("") == 1
    assert tokenizer.count("a red panda " * 50) > 100


def test_it_equals_transformers(tokenizer: Tokenizer, tiny_folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tiny_folder / "tokenizer/tokenizer.json"), pad_token="<pad>", padding_side="right"
    )
    prompts = ["a red panda", "", "two dogs under the moon " * 4]
    expected = theirs(prompts, padding="max_length", max_length=10, truncation=True, return_tensors="pt")
    ids, mask = tokenizer.encode(prompts, 10)
    assert torch.equal(ids, expected.input_ids) and torch.equal(mask.long(), expected.attention_mask)


def test_what_is_not_a_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not a readable tokenizer"):
        Tokenizer(tmp_path / "tokenizer.json")


def test_the_vocabulary_reaches_to_the_largest_id(tokenizer: Tokenizer, tiny_folder: Path, tmp_path: Path) -> None:
    raw = json.loads((tiny_folder / "tokenizer/tokenizer.json").read_text())
    size = tokenizer.vocabulary
    assert size == 1 + max(raw["model"]["vocab"].values())
    raw["model"]["vocab"]["zz"] = 499
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    assert Tokenizer(tmp_path / "tokenizer.json").vocabulary == 500


def test_ids_are_those_that_are_encoded(tokenizer: Tokenizer) -> None:
    ids, mask = tokenizer.encode(["a red panda"], 8)
    assert tokenizer.ids("a red panda") == ids[mask].tolist() and tokenizer.ids("")[0] == BOS
    assert ids[~mask].eq(tokenizer.pad).all()


def test_a_folder_without_a_usable_tokenizer_says_so(tiny_folder: Path, tmp_path: Path) -> None:
    problems = Problems("Nothing can be read; look")
    assert find_tokenizer(tiny_folder / "tokenizer", problems).is_file() and not problems
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    find_tokenizer(folder, problems)
    assert "missing (1): tokenizer/tokenizer.json" in str(problems)
    (folder / "tokenizer.model").write_bytes(b"sentences")
    find_tokenizer(folder, problems)
    assert "tokenizer/tokenizer.model alone; put the same model's tokenizer.json beside it" in str(problems)

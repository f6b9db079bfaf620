"""Prompts to embeddings: what is remembered, what is shared, what is left out, and what must not matter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from frolic.errors import NumericsError
from frolic.io.tokenizer import Tokenizer
from frolic.models.sana.instruction import INSTRUCTIONS
from frolic.models.text import Gemma2Config, Gemma2Encoder
from frolic.pipeline.text import TextStage
from texts import encoder, tokenizer

GEMMA_2_2B_IT = {
    "_name_or_path": "google/gemma-2-2b-it", "architectures": ["Gemma2ForCausalLM"], "attention_bias": False,
    "attention_dropout": 0.0, "attn_logit_softcapping": 50.0, "bos_token_id": 2, "cache_implementation": "hybrid",
    "eos_token_id": [1, 107], "final_logit_softcapping": 30.0, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304, "initializer_range": 0.02,
    "intermediate_size": 9216, "max_position_embeddings": 8192, "model_type": "gemma2", "num_attention_heads": 8,
    "num_hidden_layers": 26, "num_key_value_heads": 4, "pad_token_id": 0, "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096, "sliding_window_size": 4096,
    "torch_dtype": "bfloat16", "transformers_version": "4.46.2", "use_cache": True, "vocab_size": 256000,
}  # fmt: skip
TOKENS = 24
INSTRUCTION = "Describe the picture.\nUser Prompt: "


class Watched:
    """An encoder that notes how many tokens it was given."""

    def __init__(self, inner: Gemma2Encoder) -> None:
        self.inner = inner
        self.prefixes: list[int] = []
        self.read: list[int] = []

    def __call__(self, ids_BS: Tensor, mask_BS: Tensor, prefix: Any = None) -> Tensor:
        self.read.append(ids_BS.shape[1])
        states: Tensor = self.inner(ids_BS, mask_BS, prefix)
        return states

    def prefix(self, ids_1P: Tensor) -> Any:
        self.prefixes.append(ids_1P.shape[1])
        return self.inner.prefix(ids_1P)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tokenizer(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def phrases(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tokenizer(tmp_path_factory.mktemp("phrases"), words=False)


def stage(tokenizer: Tokenizer, **changes: Any) -> tuple[TextStage, Watched]:
    watched = Watched(encoder())
    return TextStage(watched, tokenizer, **{"max_tokens": TOKENS, **changes}), watched


def plainly(tokenizer: Tokenizer, text: str, total: int) -> Tensor:
    """Hidden states of ``text`` padded to ``total`` tokens, the long way."""
    ids, mask = tokenizer.encode([text], total)
    return encoder()(ids, mask)


@pytest.mark.parametrize("window", [4, 64])
@pytest.mark.parametrize("softcap", [None, 50.0])
def test_texts_behind_a_prefix_are_as_if_read_with_it(window: int, softcap: float | None) -> None:
    model = encoder(sliding_window=window, attn_logit_softcapping=softcap)
    ids = torch.randint(0, 512, (1, 13), generator=torch.Generator().manual_seed(1))
    rows = torch.randint(0, 512, (2, 9), generator=torch.Generator().manual_seed(2))
    mask = torch.tensor([[True] * 9, [True] * 5 + [False] * 4])
    whole_ids = torch.cat([ids.expand(2, -1), rows], dim=1)
    whole = model(whole_ids, torch.cat([torch.ones(2, 13, dtype=torch.bool), mask], dim=1))
    prefix = model.prefix(ids)
    torch.testing.assert_close(prefix.states_1PD.expand(2, -1, -1), whole[:, :13])
    torch.testing.assert_close(model(rows, mask, prefix), whole[:, 13:])
    shorter = model(whole_ids[:, 6:], torch.cat([torch.ones(2, 7, dtype=torch.bool), mask], dim=1), prefix.first(6))
    torch.testing.assert_close(shorter, whole[:, 6:])


def test_a_row_that_is_all_padding_stays_finite() -> None:
    assert encoder(sliding_window=2)(torch.zeros(1, 6, dtype=torch.int64), torch.zeros(1, 6).bool()).isfinite().all()


def test_the_instruction_is_read_once_and_each_prompt_alone(words: Tokenizer) -> None:
    text, watched = stage(words, instruction=INSTRUCTION)
    head = words.count(INSTRUCTION)
    for prompt in ("a cat", "two dogs", "a red fox in the snow", "a cat"):
        text.encode(prompt)
    assert watched.prefixes == [head - 1]
    assert len(watched.read) == 3 and max(watched.read) <= 16


@pytest.mark.parametrize(
    "prompt", ["a cat", "", "A RED fox", "1", "\x00", "a red fox in the snow " * 9, "User Prompt:"]
)
@pytest.mark.parametrize("merging", ["words", "phrases"])
@pytest.mark.parametrize("max_tokens", [1, 2, TOKENS])
def test_a_prompt_may_merge_with_the_instruction(
    prompt: str, merging: str, max_tokens: int, request: pytest.FixtureRequest
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(merging)
    text, _ = stage(tokenizer, instruction=INSTRUCTION, max_tokens=max_tokens)
    head = tokenizer.count(INSTRUCTION)
    total = head + max_tokens - 2
    whole = INSTRUCTION + prompt.lower().strip()
    expected = plainly(tokenizer, whole, total)[:, [0, *range(head - 1, total)]]
    got = text.encode(prompt)
    assert got.embeds.shape == expected.shape and got.mask.shape == (1, max_tokens)
    torch.testing.assert_close(got.embeds[got.mask], expected[got.mask])
    assert got.embeds[~got.mask].eq(0).all()
    assert int(got.mask.sum()) == min(max_tokens, text.count(prompt))
    assert (text.count(prompt) > max_tokens) == (tokenizer.count(whole) > total)


def test_phrases_do_merge_across_the_boundary(phrases: Tokenizer) -> None:
    head, ids = phrases.ids(INSTRUCTION), phrases.ids(INSTRUCTION + "a cat")
    assert ids[: len(head) - 1] != head[:-1], "or the test above shows little"


def test_negative_prompts_are_read_without_the_instruction(words: Tokenizer) -> None:
    text, watched = stage(words, instruction=INSTRUCTION)
    got = text.encode("two dogs", negative=True)
    assert watched.prefixes == [] and watched.read == [8]
    torch.testing.assert_close(got.embeds[got.mask], plainly(words, "two dogs", TOKENS)[got.mask])
    assert int(got.mask.sum()) == text.count("two dogs", negative=True) == words.count("two dogs")
    assert text.unconditional("two dogs", "a cat") is got
    assert not text.encode("two dogs").embeds.equal(got.embeds)


def test_only_real_tokens_are_computed(words: Tokenizer) -> None:
    text, watched = stage(words, max_tokens=300)
    got = text.encode("a cat")
    assert watched.read == [8] and got.embeds.shape[1] == got.mask.shape[1] == 300
    expected = plainly(words, "a cat", 300)
    torch.testing.assert_close(got.embeds[got.mask], expected[got.mask])


def test_native_mode_reads_the_negative_prompt_through_the_prompts_mask(words: Tokenizer) -> None:
    text, _ = stage(words, instruction=INSTRUCTION, compat="native")
    prompt, uncond = text.encode("a red fox in the snow"), text.unconditional(" Two", "a red fox in the snow")
    assert uncond.mask.equal(prompt.mask)
    assert int(text.encode(" Two", negative=True).mask.sum()) != int(prompt.mask.sum())
    torch.testing.assert_close(uncond.embeds, plainly(words, " Two", TOKENS))
    assert text.unconditional(" Two", "a cat").mask.equal(text.encode("a cat").mask)


def test_native_mode_keeps_the_case(words: Tokenizer) -> None:
    native, _ = stage(words, compat="native")
    ours, _ = stage(words)
    assert not native.encode("THE MOON").embeds.equal(native.encode("the moon").embeds)
    assert ours.encode(" THE MOON ").embeds.equal(ours.encode("the moon").embeds)
    kept, _ = stage(words, lowercase=False)
    assert kept.encode(" THE MOON ").embeds.equal(native.encode("THE MOON").embeds)


def test_a_suffix_is_put_behind_what_is_not_empty(words: Tokenizer) -> None:
    text, _ = stage(words, prompt_suffix=" in the snow")
    plain, _ = stage(words)
    assert text.encode("A cat ").embeds.equal(plain.encode("a cat in the snow").embeds)
    assert text.encode(" ").embeds.equal(plain.encode("").embeds)


def test_the_last_sixteen_texts_are_remembered(words: Tokenizer) -> None:
    text, watched = stage(words)
    first = text.encode("a cat")
    for number in range(15):
        text.encode(f"cat {number}")
    assert text.encode(" A CAT") is first and len(watched.read) == 16
    text.encode("another")
    assert text.encode("a cat") is first
    text.encode("cat 0")
    assert len(watched.read) == 18
    text.forget()
    assert text.encode("a cat") is not first


def test_a_changed_encoder_is_read_again_after_forgetting(words: Tokenizer) -> None:
    text, watched = stage(words, instruction=INSTRUCTION)
    before = text.encode("a cat").embeds
    watched.inner.embed.weight.mul_(2)
    assert text.encode("a cat").embeds.equal(before)
    text.forget()
    fresh, other = stage(words, instruction=INSTRUCTION)
    other.inner.embed.weight.mul_(2)
    assert text.encode("a cat").embeds.equal(fresh.encode("a cat").embeds)


def test_embeds_keep_the_encoders_dtype_and_can_be_trained_with(words: Tokenizer) -> None:
    text = TextStage(encoder().to(torch.bfloat16), words, max_tokens=TOKENS, instruction=INSTRUCTION)
    with torch.inference_mode():
        got = text.encode("a cat")
    assert got.embeds.dtype == torch.bfloat16 and got.mask.dtype == torch.bool
    assert not got.embeds.is_inference() and not text.encode("two dogs").embeds.is_inference()


def test_an_encoder_that_overflows_is_named(words: Tokenizer) -> None:
    text, watched = stage(words)
    watched.inner.norm.weight.fill_(float("inf"))
    with pytest.raises(NumericsError, match="text encoder gave values that are not finite"):
        text.encode("a cat")


def test_the_published_config_is_understood() -> None:
    assert Gemma2Config.from_json(GEMMA_2_2B_IT) == Gemma2Config()


def test_the_instructions_differ_in_their_quotes_only() -> None:
    ours, native = INSTRUCTIONS["diffusers"], INSTRUCTIONS["native"]
    assert ours != native and ours == native.replace('"', "'")
    assert ours.endswith("\nUser Prompt: ") and ours.count("\n") == 7

"""The text side against diffusers' pipelines and transformers' Gemma 2: same weights, same prompts, float32."""

from __future__ import annotations

import inspect

import pytest
import torch

from frolic.models.sana.instruction import INSTRUCTIONS
from frolic.models.text import Gemma2Config, Gemma2Encoder, causal_lm_keys, transformers_keys
from frolic.pipeline.text import TextStage
from texts import GEMMA, encoder, tokenizer

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

PROMPTS = ["a cat", "", " THE red Fox, in the SNOW!", "\x07", "User Prompt: two dogs", "a red fox in the snow, " * 200]
LINES = INSTRUCTIONS["diffusers"].split("\n")


def theirs_like(ours: Gemma2Encoder, **changes) -> torch.nn.Module:
    """transformers' class with the weights of ``ours``."""
    raw = transformers.Gemma2Config(**GEMMA | changes, pad_token_id=0, bos_token_id=2, eos_token_id=1)
    # The fused attention kernel of transformers leaves out the soft cap of the logits.
    model = transformers.Gemma2Model._from_config(raw, attn_implementation="eager")
    model.load_state_dict(transformers_keys(ours.config).save(ours.state_dict()), strict=True)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=["words", "phrases"])
def pair(request, tmp_path_factory):
    """diffusers' pipeline, and what ours is made of: encoder and tokenizer."""
    folder = tmp_path_factory.mktemp(request.param)
    ours, read = encoder(), tokenizer(folder, words=request.param == "words")
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token="<pad>", bos_token="<bos>"
    )
    pipe = diffusers.SanaPipeline(
        tokenizer=fast, text_encoder=theirs_like(ours), vae=None, transformer=None, scheduler=None
    )
    return pipe, ours, read


def close(ours, theirs, tolerance=1e-4):
    return ((ours - theirs).abs().max() / (theirs.max() - theirs.min())).item() < tolerance


@pytest.mark.parametrize("max_tokens", [2, 12, 300])
@pytest.mark.parametrize("lines", [LINES, None], ids=["instructed", "plain"])
def test_prompts_and_negative_prompts(pair, max_tokens, lines):
    pipe, ours, read = pair
    with torch.no_grad():
        embeds, mask, negative, negative_mask = pipe.encode_prompt(
            PROMPTS,
            negative_prompt=list(reversed(PROMPTS)),
            device=torch.device("cpu"),
            max_sequence_length=max_tokens,
            complex_human_instruction=lines,
        )
    stage = TextStage(ours, read, max_tokens=max_tokens, instruction="\n".join(lines or []))
    for row, prompt in enumerate(PROMPTS):
        got = stage.encode(prompt)
        assert torch.equal(got.mask[0], mask[row].bool()), prompt
        assert close(got.embeds[got.mask], embeds[row][got.mask[0]]), prompt
        got = stage.unconditional(PROMPTS[-1 - row], prompt)
        assert torch.equal(got.mask[0], negative_mask[row].bool())
        assert close(got.embeds[got.mask], negative[row][got.mask[0]])
    assert mask[-1].all() and not mask[1, 3:].any(), "one prompt is cut, and one is mostly padding"


def test_native_mode_reads_the_states_of_padding(pair):
    pipe, ours, read = pair
    with torch.no_grad():
        _, mask, negative, _ = pipe.encode_prompt(
            PROMPTS[2],
            negative_prompt="",
            device=torch.device("cpu"),
            max_sequence_length=30,
            complex_human_instruction=LINES,
        )
    stage = TextStage(ours, read, max_tokens=30, instruction=INSTRUCTIONS["diffusers"], compat="native")
    got = stage.unconditional("", PROMPTS[2].lower())
    assert torch.equal(got.mask, mask.bool()) and int(mask.sum()) > 4
    assert close(got.embeds, negative)


@pytest.mark.parametrize(
    "name",
    ["SanaPipeline", "SanaPAGPipeline", "SanaControlNetPipeline", "SanaSprintPipeline", "SanaSprintImg2ImgPipeline"],
)
def test_the_instruction_is_diffusers_default(name):
    default = inspect.signature(getattr(diffusers, name).__call__).parameters["complex_human_instruction"].default
    assert "\n".join(default) == INSTRUCTIONS["diffusers"]


def test_padding_is_as_transformers_has_it_beyond_the_window():
    ours = encoder(sliding_window=4)
    ids = torch.randint(4, 512, (2, 12), generator=torch.Generator().manual_seed(3))
    mask = torch.tensor([[1] * 12, [1] * 9 + [0] * 3])
    expected = theirs_like(ours, sliding_window=4)(ids, attention_mask=mask).last_hidden_state
    assert close(ours(ids, mask), expected)


@pytest.mark.parametrize("softcap", [50.0, 2.0])
def test_bfloat16_rounds_where_transformers_does(softcap):
    ours = encoder(attn_logit_softcapping=softcap)
    theirs = theirs_like(ours, attn_logit_softcapping=softcap)
    ids = torch.randint(4, 512, (1, 60), generator=torch.Generator().manual_seed(4))
    exact = ours(ids, torch.ones_like(ids))
    theirs = theirs.to(torch.bfloat16)(ids).last_hidden_state.float()
    low = ours.to(torch.bfloat16)
    whole = low(ids, torch.ones_like(ids)).float()
    behind = low(ids[:, 40:], torch.ones(1, 20), low.prefix(ids[:, :40])).float()

    def off(got, reference):
        return ((got - reference).square().mean() / reference.square().mean()).sqrt().item()

    rounding = off(theirs, exact)
    assert rounding > 1e-3, "or nothing was rounded"
    assert off(whole, exact) < 1.1 * rounding
    assert off(behind, exact[:, 40:]) < 1.2 * off(theirs[:, 40:], exact[:, 40:])
    assert off(whole, theirs) < rounding


def test_a_causal_language_model_is_an_encoder_with_a_head():
    raw = transformers.Gemma2Config(**GEMMA, pad_token_id=0, bos_token_id=2, eos_token_id=1)
    theirs = transformers.Gemma2ForCausalLM._from_config(raw, attn_implementation="eager").eval()
    config = Gemma2Config.from_json(raw.to_dict() | {"architectures": ["Gemma2ForCausalLM"]})
    keymap, ours = causal_lm_keys(config), Gemma2Encoder(config)
    state = theirs.state_dict()
    assert "lm_head.weight" in state
    ours.load_state_dict(keymap.load(state), strict=True)
    assert keymap.save(ours.state_dict()).keys() == keymap.wanted(state).keys() == state.keys() - {"lm_head.weight"}
    ids = torch.randint(4, 512, (1, 7))
    with torch.no_grad():
        assert close(ours(ids, torch.ones_like(ids)), theirs.model(ids).last_hidden_state)

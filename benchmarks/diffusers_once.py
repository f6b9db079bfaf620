"""The least that draws one picture with diffusers: ``diffusers_once.py MODEL SETTINGS_JSON PROMPT PNG``."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from diffusers import SanaPipeline


def load(model: str, chosen: dict[str, Any]) -> Any:
    pipe = SanaPipeline.from_pretrained(model, dtype=torch.float32).to(chosen["device"])
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: Any, prompt: str, chosen: dict[str, Any]) -> Any:
    """A PIL picture, with everything off that frolic does not do either."""
    return pipe(
        prompt,
        num_inference_steps=chosen["steps"],
        guidance_scale=chosen["guidance_scale"],
        height=chosen["height"],
        width=chosen["width"],
        max_sequence_length=chosen["max_tokens"],
        generator=torch.Generator().manual_seed(chosen["seed"]),
        use_resolution_binning=False,
        complex_human_instruction=None,
    ).images[0]


def main() -> None:
    model, settings, prompt, png = sys.argv[1:]
    chosen = json.loads(settings)
    draw(load(model, chosen), prompt, chosen).save(png)


if __name__ == "__main__":
    main()

"""The least that draws one picture with diffusers: ``diffusers_once.py MODEL SETTINGS_JSON PROMPT PNG``."""

import json
import sys

import torch
from diffusers import SanaPipeline

model, settings, prompt, png = sys.argv[1:]
chosen = json.loads(settings)

pipe = SanaPipeline.from_pretrained(model, dtype=torch.float32).to(chosen["device"])
pipe.set_progress_bar_config(disable=True)
picture = pipe(
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
picture.save(png)

"""The least that writes one clip with diffusers: ``diffusers_clip_once.py MODEL PROMPT MP4``."""

from __future__ import annotations

import sys
from typing import Any

import av
import torch
from diffusers import WanPipeline

STEPS, FRAMES, SIDE, SCALE, FPS = 20, 17, 96, 5.0, 8


def main() -> None:
    model, prompt, path = sys.argv[1:]
    pipe: Any = WanPipeline.from_pretrained(model, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    frames = pipe(
        prompt, num_frames=FRAMES, height=SIDE, width=SIDE, num_inference_steps=STEPS, guidance_scale=SCALE,
        generator=torch.Generator().manual_seed(7), output_type="np",
    ).frames[0]  # fmt: skip
    with av.open(path, "w") as file:
        stream: Any = file.add_stream("libx264", rate=FPS)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for frame in (frames * 255).round().astype("uint8"):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())


if __name__ == "__main__":
    main()

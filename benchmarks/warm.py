"""Times of pictures in a process that is already warm: ``warm.py frolic|diffusers MODEL SETTINGS_JSON CALLS``.

Prints a JSON list of seconds from prompt to PIL picture. Every call has another prompt, so that nobody is timed
remembering one. The first two calls are not counted.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

WARM_UP = 2
COLOURS = ("red", "blue", "green", "yellow", "purple", "orange", "white", "black")
THINGS = ("panda", "apple", "car", "rocket", "umbrella", "cat", "guitar", "tree", "balloon", "house", "crown")


def prompts(count: int) -> list[str]:
    """``count`` different prompts of five tokens or so."""
    return [f"a {COLOURS[i % len(COLOURS)]} {THINGS[i % len(THINGS)]}" for i in range(count)]


def frolic_drawer(model: str, chosen: dict[str, Any]) -> Callable[[str], Any]:
    import frolic

    pipe = frolic.load(model, dtype="float32", device=chosen["device"])
    fields = {key: chosen[key] for key in ("steps", "guidance_scale", "height", "width", "seed")}
    return lambda prompt: pipe(prompt, **fields).images[0]


def diffusers_drawer(model: str, chosen: dict[str, Any]) -> Callable[[str], Any]:
    from diffusers_once import draw, load  # imports diffusers, which frolic's process must not

    pipe = load(model, chosen)
    return lambda prompt: draw(pipe, prompt, chosen)


def main() -> None:
    who, model, settings, calls = sys.argv[1:]
    draw = {"frolic": frolic_drawer, "diffusers": diffusers_drawer}[who](model, json.loads(settings))
    seconds = []
    for prompt in prompts(WARM_UP + int(calls)):
        started = time.perf_counter()
        draw(prompt)
        seconds.append(time.perf_counter() - started)
    print(json.dumps(seconds[WARM_UP:]))


if __name__ == "__main__":
    main()

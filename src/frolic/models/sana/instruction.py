"""What stands before a prompt when SANA's text encoder reads it ("complex human instruction", Xie et al. 2024, 3.1).

The two published implementations differ in their quotation marks, and so in a few tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType


def _instruction(quote: str) -> str:
    return "\n".join(
        (
            f"Given a user prompt, generate an {quote}Enhanced prompt{quote} that provides detailed visual "
            "descriptions suitable for image generation. Evaluate the level of detail in the user prompt:",
            "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial "
            "relationships to create vivid and concrete scenes.",
            "- If the prompt is already detailed, refine and enhance the existing details slightly without "
            "overcomplicating.",
            "Here are examples of how to transform or refine prompts:",
            "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping "
            "peacefully on a warm sunny windowsill, surrounded by pots of blooming red flowers.",
            "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing "
            "street lamps, a diverse crowd of people in colorful clothing, and a double-decker bus passing by towering "
            "glass skyscrapers.",
            "Please generate only the enhanced description for the prompt below and avoid including any additional "
            "commentary or evaluations:",
            "User Prompt: ",
        )
    )


INSTRUCTIONS: Mapping[str, str] = MappingProxyType({"diffusers": _instruction("'"), "native": _instruction('"')})
"""By whose it is: diffusers' or that of SANA's authors. The space at the end belongs to it."""

"""Lists of prompts, one a line, for reward training."""

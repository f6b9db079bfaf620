"""``frolic reward``: what rewards say of pictures and clips."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the ``reward`` commands."""
    reward = typer.Typer(no_args_is_help=True, help="Score pictures and clips with rewards.")
    from frolic.cli.reward_score import score

    for command in (score,):
        reward.command()(command)
    app.add_typer(reward, name="reward")

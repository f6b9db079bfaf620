"""``frolic reward``: what rewards say of pictures and clips, and rewards of one's own."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the ``reward`` commands."""
    from frolic.cli.reward_label import label
    from frolic.cli.reward_score import score
    from frolic.cli.reward_train import train

    reward = typer.Typer(no_args_is_help=True, help="Score pictures and clips; learn a reward from choices.")
    for command in (score, label, train):
        reward.command()(command)
    app.add_typer(reward, name="reward")

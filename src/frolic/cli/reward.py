"""``frolic reward``: rewards of one's own, from choices between pictures."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the ``reward`` commands."""
    reward = typer.Typer(no_args_is_help=True, help="Choose between pictures, and learn a reward from the choices.")
    from frolic.cli.reward_label import label
    from frolic.cli.reward_train import train

    for command in (label, train):
        reward.command()(command)
    app.add_typer(reward, name="reward")

"""``frolic reward``: rewards of one's own, from choices between pictures."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the ``reward`` commands."""
    from frolic.cli.reward_label import label
    from frolic.cli.reward_train import train

    reward = typer.Typer(no_args_is_help=True, help="Choose between pictures, and learn a reward from the choices.")
    reward.command("label")(label)
    reward.command("train")(train)
    app.add_typer(reward, name="reward")

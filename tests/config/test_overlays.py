from __future__ import annotations

from frolic.config import load_recipe


def test_overrides_need_not_make_sense_with_an_overlay_that_is_not_used():
    """The ci overlay has a batch of 4, which eight passes cannot share."""
    recipe = load_recipe("starter/autoencoder", ["trainer.accumulation=8"], environment="cpu")
    assert recipe.trainer.accumulation == 8

"""The flow loss of a model that stays as it is, for the factors of an adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from frolic.lora.trained import Factors
from frolic.train.objectives.flow import Flow, FlowSettings


class LoraFlow(Flow):
    """``Flow`` where the ``factors`` are what is trained; ``transformer`` reads them already. ``draw`` makes previews
    with the factors that it is given."""

    def __init__(
        self,
        transformer: nn.Module,
        factors: Factors,
        settings: FlowSettings,
        null_text: Tensor,
        null_mask: Tensor,
        draw: Callable[[Factors], Tensor],
    ) -> None:
        super().__init__(transformer, settings, null_text, null_mask)
        self.factors = factors
        self.show = draw

    def modules(self) -> Mapping[str, nn.Module]:
        return {"adapter": self.factors}

    def preview(self, modules: Mapping[str, nn.Module]) -> Tensor | None:
        factors = modules["adapter"]
        assert isinstance(factors, Factors)
        return self.show(factors)

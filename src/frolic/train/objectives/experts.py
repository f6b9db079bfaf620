"""Flow matching for two experts at once, each at the noise levels that are its own.

B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from frolic.train.objectives.agreement import Agreement
from frolic.train.objectives.flow import Flow, FlowSettings


class ExpertsFlow(Flow):
    """``Flow`` where a sample goes to ``high`` from the noise level ``boundary`` (0 to 1) on, upwards, and to ``low``
    below it. Together they see the same levels as one model would, and a step costs the same."""

    def __init__(
        self,
        high: nn.Module,
        low: nn.Module,
        boundary: float,
        settings: FlowSettings,
        null_text: Tensor,
        null_mask: Tensor,
        draw: Callable[[Mapping[str, nn.Module]], Tensor] | None = None,
        agreement: Agreement | None = None,
    ) -> None:
        super().__init__(_Routed(high, low, boundary), settings, null_text, null_mask, agreement=agreement)
        self.experts = {"transformer": high, "transformer_2": low}
        self.show = draw

    def modules(self) -> Mapping[str, nn.Module]:
        return self.experts

    def preview(self, modules: Mapping[str, nn.Module]) -> Tensor | None:
        return None if self.show is None else self.show(modules)


class _Routed(nn.Module):
    """Calls each expert with the samples that are its own."""

    def __init__(self, high: nn.Module, low: nn.Module, boundary: float) -> None:
        super().__init__()
        self.high, self.low, self.boundary = high, low, boundary

    def forward(self, x: Tensor, t_B: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        # Of a clip whose first frame is given, the other frames' time counts.
        reached = (t_B if t_B.ndim == 1 else t_B[:, -1]) >= 1000 * self.boundary
        out: Tensor | None = None
        for expert, rows in ((self.high, reached), (self.low, ~reached)):
            index = rows.nonzero()[:, 0]
            if not len(index):
                continue
            some = expert(x[index], t_B[index], text[index], mask[index])
            if out is None:
                out = some.new_zeros(len(x), *some.shape[1:])
            out = out.index_copy(0, index, some)
        assert out is not None
        return out

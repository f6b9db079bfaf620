"""Every family frolic knows: one line each."""

from __future__ import annotations

from collections.abc import Mapping

from frolic.spec import FamilySpec


def families() -> Mapping[str, FamilySpec]:
    """Specs by family name. Imported when asked, so that a family costs nothing until it is used."""
    from frolic.models.sana.spec import SANA
    from frolic.models.wan.spec import WAN

    return {spec.name: spec for spec in (SANA, WAN)}

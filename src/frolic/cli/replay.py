"""Draw again what made a picture or a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from frolic.errors import FileError, RequestError
from frolic.request import RECORDED, UNSAID, Request
from frolic.request.few import suits
from frolic.sampling.few import FEW
from frolic.strength import Blend, Strength, blend_of

if TYPE_CHECKING:
    from frolic.pipeline import Inputs, Pipeline
    from frolic.spec import SamplingDefaults

QUICK, WHOLE = "starter-sprint", "starter"
_FIELDS = ("prompt", "seed", *RECORDED)
_MAX_BATCH = 64
_OF_A_KIND = ("sampler", "steps", "times", "guidance_scale", "guidance_scale_2")


@dataclass(frozen=True)
class Replay:
    """The record of a file, checked."""

    path: str
    record: dict[str, Any]
    dtype: str
    device: str
    row: int
    size: int
    tokens: int

    @classmethod
    def read(cls, path: str) -> Self:
        """Read the record in the file at ``path``.

        Raises:
            FileError: there is none, or it cannot be used.
        """
        from frolic.io.media import read_record

        record = read_record(Path(path))
        try:
            row, size, tokens = record["batch"]
            wanted = record["request"]
            wanted = record["request"] = {**UNSAID, **wanted}
            Request.of(str(wanted["prompt"]), **{name: wanted[name] for name in _FIELDS[1:]})
            whole = all(type(n) is int for n in (row, size, tokens)) and 0 <= row < size <= _MAX_BATCH and tokens > 0
            texts = [record["dtype"], record["device"], record["model"]["name"], record["model"]["hash"]]
            texts += [
                record.get("compat", ""),
                *record.get("inputs", {}).values(),
                *record.get("adapters", {}).values(),
            ]
            blend_of(wanted.get("loras") or {})
        except (AttributeError, KeyError, TypeError, ValueError, RequestError):
            whole, texts = False, []
        if not whole or not all(isinstance(text, str) for text in texts):
            raise FileError(f"The frolic record in {path} is damaged; get the file again.")
        if record.get("noise") != "seed":
            raise FileError(f"{path} was drawn from noise that it does not hold; it cannot be drawn again.")
        # Only the CPU is on every machine.
        return cls(path, record, texts[0], "cpu" if texts[1] == "cpu" else "auto", row, size, tokens)

    @property
    def compat(self) -> str:
        """Whose reading of the model it was."""
        return str(self.record.get("compat", "diffusers"))

    def model(self, changes: dict[str, Any]) -> str:
        """The name of the model, or the whole starter's where the quick one made the picture and cannot do what is
        changed. Raises as ``model_of``."""
        name = model_of(self.record, self.path)
        changed = {field: value for field, value in changes.items() if value is not None}
        if name == QUICK and not suits(Request.of(str(self.record["request"]["prompt"]), **changed)):
            return WHOLE
        return name

    def suited(self, request: Request, changes: dict[str, Any], defaults: SamplingDefaults) -> Request:
        """``request`` without how the recorded model draws, where one draws in a few steps and the other does not."""
        if (self.record["request"]["sampler"] == FEW) == (defaults.sampler == FEW):
            return request
        unsaid: dict[str, Any] = {name: None for name in _OF_A_KIND if changes.get(name) is None}
        return replace(request, **unsaid)

    def request(self, prompts: tuple[str, ...], changes: dict[str, Any]) -> tuple[Request, int | None]:
        """The request, and which of its pictures is the one wanted (None: all).

        Unchanged, the picture takes its old place in a batch of the old size, and ``tokens`` is the width its text had:
        arithmetic rounds differently at different sizes, and the pixels should be the same ones.
        """
        kept = {name: self.record["request"][name] for name in _FIELDS}
        if changes.get("aspect") is not None:
            kept |= {"width": None, "height": None}
        if changes.get("seconds") is not None:
            kept["frames"] = None
        for name, decided in (("times", "steps"), ("steps", "times")):
            if changes.get(name) is not None and changes.get(decided) is None:
                kept[decided] = None
        if changes.get("guidance_scale") is not None:
            kept["guidance_scale_2"] = None  # the same, as where only the first is given
        changed = {name: value for name, value in changes.items() if value is not None}
        if not prompts and not changed:
            alone = {**kept, "seed": [kept["seed"]] * self.size}
            return Request.of([alone.pop("prompt")] * self.size, **alone), self.row
        asked = {**kept, **changed}
        return Request.of(prompts or asked.pop("prompt"), **{k: v for k, v in asked.items() if k != "prompt"}), None

    def blend(self, given: Sequence[tuple[str, Strength | None]]) -> tuple[Blend, Any]:
        """The adapters to draw with, and what a request changes by them: None where it is the recorded blend.

        A record names its adapters and holds the hashes of their files, not where they lie. A file that is given
        without a strength has the one that it had.

        Raises:
            RequestError: it was drawn with adapters, and none are given.
        """
        recorded, hashes = self.record["request"].get("loras") or {}, self.record.get("adapters", {})
        from frolic.adapters import find, resolve
        from frolic.adapters.shelf import named
        from frolic.io.safetensors import fingerprint

        if recorded and not given:
            # Those that have a name are found by it, where it is still the same file.
            known = named()
            if all(name in known and fingerprint([known[name]]) == hashes.get(name) for name in recorded):
                # By its path where something else here is called as it is.
                sources = {name: name if resolve(name) == known[name] else str(known[name]) for name in recorded}
                return tuple((sources[name], strength) for name, strength in blend_of(recorded)), None
        if recorded and not given:
            files = "its file" if len(recorded) == 1 else "their files"
            raise RequestError(
                f"{self.path} was drawn with {', '.join(recorded)}; give {files} with --lora, or another one to draw "
                "something new."
            )
        names = {digest: name for name, digest in hashes.items()}
        called = [names.get(fingerprint(find(resolve(source)).files)) for source, _ in given]
        had = [Strength.of(recorded[name]) if name in recorded else None for name in called]
        blend = tuple((source, said or then or Strength()) for (source, said), then in zip(given, had, strict=True))
        same = set(called) == recorded.keys() and all(
            strength == then for (_, strength), then in zip(blend, had, strict=True)
        )
        return blend, None if same else (blend,)

    def check_inputs(self, inputs: Inputs) -> None:
        """Refuse to draw again from other pictures than those it was drawn from.

        Raises:
            RequestError: one is missing, or is another one.
        """
        made_from, given = self.record.get("inputs", {}), inputs.read().hashes()
        for name in made_from.keys() | given.keys():
            if made_from.get(name) != given.get(name):
                which = "another" if name in given else "an"
                said = (
                    f"with {which} --{name}; give that one" if name in made_from else f"without --{name}; leave it out"
                )
                raise RequestError(f"{self.path} was made {said}, or change an option to draw something new.")

    def check_given(self, inputs: Inputs) -> None:
        """Refuse to draw something new without a picture that what is there was made from.

        Raises:
            RequestError: one is missing.
        """
        missing = sorted(self.record.get("inputs", {}).keys() - inputs.read().hashes().keys())
        if missing:
            named = " and ".join(f"--{name}" for name in missing)
            raise RequestError(f"{self.path} was made with {named}, which it does not hold; give it again, or another.")

    def check_weights(self, pipeline: Pipeline) -> None:
        """Refuse a model that was found by the record's name but is another one.

        Raises:
            RequestError: it is.
        """
        if pipeline.card.hash != self.record["model"]["hash"]:
            name = pipeline.card.name
            raise RequestError(
                f"{self.path} was made by other weights that are also called {name!r}; give their folder with --model."
            )

    def differences(self, pipeline: Pipeline) -> list[str]:
        """Why the pixels may come out otherwise than they did."""
        import torch

        notes = []
        if pipeline.card.hash != self.record["model"]["hash"]:
            notes.append(f"These are not the weights that made {self.path}; the picture will differ.")
        if (shift := self.record.get("shift")) != pipeline.defaults.shift:
            notes.append(f"{self.path} was made with shift {shift}, not {pipeline.defaults.shift}; it will differ.")
        if self.compat != pipeline.compat:
            notes.append(f"{self.path} was made with compat {self.compat}, not {pipeline.compat}; it will differ.")
        for what, now in (
            ("dtype", str(pipeline.dtype).removeprefix("torch.")),
            ("device", pipeline.device.type),
            ("torch", torch.__version__),
        ):
            if (then := self.record.get(what)) != now:
                notes.append(f"{self.path} was made with {what} {then}, not {now}; the pixels may differ slightly.")
        return notes


def model_of(record: dict[str, Any], path: str) -> str:
    """The name of the model in a ``record`` from ``path``, if it is one that every frolic knows or that the Hub has (at
    the commit it was).

    Raises:
        RequestError: it was a folder, and a record does not say where folders are.
    """
    from frolic.plan.find import ALIASES

    name, version = str(record["model"]["name"]), str(record["model"].get("version", ""))
    if name.count("/") == 1:
        return f"hf://{name}@{version}" if version else f"hf://{name}"  # never a folder of that name
    if name not in ALIASES:
        raise RequestError(f"{path} was made by the model {name!r}; give its folder with --model.")
    return name

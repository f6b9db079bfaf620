"""The whole pipeline folder that an image recipe leaves behind: stock diffusers layout, and ``frolic.json``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from frolic.config import Section
from frolic.io.files import read_json_object, write_json
from frolic.io.folder import INDEX, OWN
from frolic.io.schedulers import SCHEDULER
from frolic.request import FEW, MOST


class FewCard(Section):
    """What a distilled model's folder says otherwise than its teacher's."""

    name: str
    version: str
    steps: Annotated[int, Field(ge=1, le=MOST)] = 2
    guidance_scale: Annotated[float, Field(ge=0, le=100)] = 4.5


class Card(Section):
    """What ``frolic.json`` says: the model's name and version, and what a request gets where it says nothing."""

    name: str
    version: str
    height: int
    width: int
    steps: int = 20
    guidance_scale: float = 4.5
    sampler: str = "dpmpp_2m"
    frames: int | None = None
    fps: float | None = None
    refine: int | None = None


def complete(
    folder: Path,
    family: str,
    card: Card,
    shift: float,
    tokens: int,
    autoencoder: Path,
    text: Path,
    boundary: float | None = None,
    clean_first: bool = False,
) -> None:
    """Add to ``folder``, which holds ``transformer``, the other parts and the files that describe the whole.
    ``boundary``: the noise level at which two experts meet. ``clean_first``: it can begin with a given picture."""
    for source, part in ((autoencoder, "vae"), (text, "text_encoder"), (text, "tokenizer")):
        shutil.copytree(source / part, folder / part)
    scheduler: dict[str, Any] = {
        "_class_name": "DPMSolverMultistepScheduler",
        "algorithm_type": "dpmsolver++",
        "final_sigmas_type": "zero",
        "flow_shift": shift,
        "lower_order_final": True,
        "num_train_timesteps": 1000,
        "prediction_type": "flow_prediction",
        "solver_order": 2,
        "solver_type": "midpoint",
        "use_flow_sigmas": True,
    }
    if family == "wan":
        scheduler |= {"_class_name": "UniPCMultistepScheduler", "solver_type": "bh2"}
        del scheduler["algorithm_type"]
    (folder / "scheduler").mkdir()
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    index: dict[str, Any] = {
        "_class_name": "SanaPipeline",
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "text_encoder": ["transformers", "Gemma2Model"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "SanaTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderDC"],
    }
    if family == "wan":
        wan = ["diffusers", "WanTransformer3DModel"]
        index |= {"_class_name": "WanPipeline", "transformer": wan, "vae": ["diffusers", "AutoencoderKLWan"]}
        index |= {"transformer_2": wan if boundary else [None, None], "boundary_ratio": boundary}
        index |= {"expand_timesteps": False}
    write_json(folder / "model_index.json", index)
    read = {"max_tokens": tokens, "negative_prompt": "", "lowercase": True, "prompt_suffix": ""}
    said = {name: value for name, value in card.model_dump().items() if value is not None}
    if clean_first:
        # Not as diffusers' expand_timesteps, which counts tokens of two by two latents, and would refuse any other.
        said["clean_first"] = True
    write_json(folder / "frolic.json", {"family": family, **said, "shift": shift, **read})


def complete_few(folder: Path, teacher: Path, card: FewCard) -> None:
    """Add to ``folder``, which holds the ``transformer`` of a few steps, the other parts of its ``teacher``'s folder
    and the files that describe the whole, as diffusers' ``SanaSprintPipeline`` reads them."""
    for part in ("vae", "text_encoder", "tokenizer"):
        shutil.copytree(teacher / part, folder / part)
    (folder / SCHEDULER).parent.mkdir()
    scheduler = {"_class_name": "SCMScheduler", "num_train_timesteps": 1000, "prediction_type": "trigflow"}
    write_json(folder / SCHEDULER, {**scheduler, "sigma_data": 0.5})
    index = read_json_object(teacher / INDEX)
    changed = {"_class_name": "SanaSprintPipeline", "scheduler": ["diffusers", scheduler["_class_name"]]}
    write_json(folder / INDEX, {**index, **changed})
    if (teacher / OWN).is_file():
        own = read_json_object(teacher / OWN)
        write_json(folder / OWN, {**own, **card.model_dump(), "sampler": FEW, "shift": 1.0})

from __future__ import annotations

from frolic.io.hub_files import absent, choose, select, variants, weight_sets

INDEX = {"_class_name": "P", "transformer": ["d", "T"], "tokenizer": ["t", "G"], "scheduler": ["d", "S"]}
UNUSED = {"safety_checker": [None, None], "requires_aesthetics_score": False, "feature_extractor": ["t", "F"]}


def test_weights_are_one_file_or_whole_shards_with_their_index() -> None:
    sharded = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"}
    assert weight_sets(sharded)[""] == (
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    )
    assert all(weight_sets(sharded - {name}) == {} for name in sharded)
    assert weight_sets({*sharded, "model.safetensors"})[""] == ("model.safetensors",)


def test_variants_in_all_their_spellings() -> None:
    names = {
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.fp16.safetensors",
        "model.bf16-00001-of-00001.safetensors",
        "model.safetensors.index.bf16.json",
        "model-00001-of-00001.fp32.safetensors",
        "model.fp32.safetensors.index.json",
        "pytorch_lora_weights.safetensors",
        "model.bin",
    }
    sets = weight_sets(names)
    assert set(sets) == {"", "fp16", "bf16", "fp32"}
    assert sets["bf16"] == ("model.safetensors.index.bf16.json", "model.bf16-00001-of-00001.safetensors")
    assert sets["fp32"][1] == "model-00001-of-00001.fp32.safetensors"
    assert variants({f"vae/{name}" for name in names} | {"a/b/model.other.safetensors"}) == set(sets)


def test_the_choice_of_a_variant() -> None:
    sets = {"": ("plain",), "fp16": ("half",)}
    assert [choose(sets, kind) for kind in ("", "fp16", "bf16")] == [("plain",), ("half",), ("plain",)]
    assert choose({"fp16": ("half",)}, "") == ("half",) and choose({}, "") == ()


def test_only_what_is_read_is_selected() -> None:
    paths = {
        *("model_index.json", "README.md", "LICENSE.txt", "logo.png", ".gitattributes", "model.safetensors"),
        *("vae/config.json", "vae/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.bin"),
        *("tokenizer/tokenizer.json", "tokenizer/tokenizer.model", "checkpoints/old/model.safetensors"),
    }
    assert select(paths) == (
        *("LICENSE.txt", "README.md", "model_index.json", "tokenizer/tokenizer.json", "vae/config.json"),
        "vae/diffusion_pytorch_model.safetensors",
    )
    assert select(paths, components=["tokenizer"])[-1] == "tokenizer/tokenizer.json"


def test_a_repository_without_an_index_is_one_component() -> None:
    paths = {"config.json", "diffusion_pytorch_model.safetensors", "sub/config.json", "sub/model.safetensors"}
    assert select(paths) == ("config.json", "diffusion_pytorch_model.safetensors")
    assert absent(select(paths), {}) == [] and absent({"config.json"}, {}) == ["*.safetensors"]


def test_what_a_pipeline_lacks() -> None:
    whole = {
        *("model_index.json", "transformer/config.json", "transformer/diffusion_pytorch_model.fp16.safetensors"),
        *("tokenizer/tokenizer.json", "scheduler/scheduler_config.json"),
    }
    index = {**INDEX, **UNUSED}
    assert absent(whole, index) == []
    assert absent({"model_index.json", "transformer/diffusion_pytorch_model.bin"}, index) == [
        *("transformer/config.json", "transformer/*.safetensors", "tokenizer/tokenizer.json"),
        "scheduler/scheduler_config.json",
    ]
    assert absent(set(), index, ["scheduler", "vae"]) == ["vae", "scheduler/scheduler_config.json"]

"""Files: whole-or-absent writing, strict safetensors, diffusers-layout folders, tokenizers, pictures with a record."""

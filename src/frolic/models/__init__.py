"""Model definitions: tensors in, tensors out. Nothing here opens a file, picks a device or knows of adapters."""

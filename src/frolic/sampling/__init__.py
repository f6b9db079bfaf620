"""Samplers: generators over a denoiser ``(x_t, sigma) -> x0``. Nothing here knows a model, a device or ``no_grad``."""

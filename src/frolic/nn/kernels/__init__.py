"""Kernels that a framework does not have, each beside the plain torch code that it stands for."""

"""What models that draw in a few steps (SANA-Sprint) are sampled by, and in how many at most. Without torch, so that a
request can be checked at once."""

FEW, MOST = "scm", 4

"""How good the pictures are: an independent judge, prompt suites, contact sheets."""

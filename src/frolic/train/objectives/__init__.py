"""What a run optimises. One file an objective; ``base`` has the two protocols the trainer works with."""

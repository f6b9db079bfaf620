"""What depends on the machine: memory, and how to make the most of it."""

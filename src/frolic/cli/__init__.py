"""The ``frolic`` command. Each command has its own module with ``register(app)``, and imports what it needs
when it runs."""

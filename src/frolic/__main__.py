"""``python -m frolic`` is ``frolic``."""

from frolic.cli.main import main

if __name__ == "__main__":
    main()

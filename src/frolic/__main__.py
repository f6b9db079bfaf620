"""``python -m frolic`` is ``frolic``."""

import sys

from frolic.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

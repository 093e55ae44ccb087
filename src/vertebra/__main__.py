"""`python -m vertebra` is `vertebra`; torchrun needs it."""

import sys

from vertebra.cli import main

if __name__ == "__main__":
    sys.exit(main())

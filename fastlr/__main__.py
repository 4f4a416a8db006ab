"""Run the command line: `python -m fastlr`."""

import sys

from .cli import main

sys.exit(main())

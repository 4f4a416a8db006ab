"""`python -m fastlr` is `fastlr`."""

import sys

from .cli import main

sys.exit(main())

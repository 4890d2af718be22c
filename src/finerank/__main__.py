"""``python -m finerank``: the same command, so that torchrun can start it."""

import sys

from finerank.cli import main

sys.exit(main())

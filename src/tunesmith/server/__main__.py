"""``python -m tunesmith.server``."""

import sys

from tunesmith.server.process import main

sys.exit(main())

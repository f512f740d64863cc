"""``python -m tunesmith.server``."""

import gc
import sys

gc.disable()  # while what stays is loaded; see ``memory.settle``

from tunesmith.server.process import main  # noqa: E402

sys.exit(main())

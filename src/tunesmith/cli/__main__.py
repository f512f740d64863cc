"""Entry point of ``tunesmith``.

It maps the tree of errors to what a user sees: the cause, the place and the way out on standard error, exit code 2
for a user's mistake and 1 for a failure, and a traceback only with ``--debug``.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

from tunesmith.cli.hoisting import hoist


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    gc.set_threshold(100_000, 20, 20)  # a command imports much, and ends soon
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments == ["--version"]:
        from tunesmith._version import __version__

        print(f"tunesmith {__version__}")
        sys.exit(0)
    from tunesmith.cli.app import app
    from tunesmith.cli.context import options
    from tunesmith.cli.trimming import trimmed

    try:
        with trimmed(app, arguments):
            app(args=hoist(arguments), prog_name="tunesmith", standalone_mode=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away (``| head``); that is its right.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        from tunesmith.cli.output import exit_code_of, show_error

        if options.debug:
            raise
        show_error(error)
        sys.exit(exit_code_of(error))


if __name__ == "__main__":
    main()

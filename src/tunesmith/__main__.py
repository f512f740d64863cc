"""``python -m tunesmith``: the command line."""

from tunesmith.cli.__main__ import main

if __name__ == "__main__":
    main()

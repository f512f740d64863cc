"""The command line: Typer commands over the Python SDK, and over ``chat/`` for files on this machine."""

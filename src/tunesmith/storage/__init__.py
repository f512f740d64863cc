"""Where the workspace keeps things: its folder, its database, its artifacts, its secrets.

Knows nothing of what the things mean: rows and files in, rows and files out.
"""

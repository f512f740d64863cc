"""What the system registry ships: components as YAML, and the entry points of their steps.

A step is thin glue between a command line and the craft; it knows nothing of databases or HTTP.
"""

"""Components and jobs: the schema, the graph, the cache that explains itself, the runner and the service over them.

Knows nothing of what a step does: a step is a command line with typed inputs and outputs.
"""

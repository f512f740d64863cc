"""Entry points of the system components: ``python -m tunesmith.components.steps.<step>``."""

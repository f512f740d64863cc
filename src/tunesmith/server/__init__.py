"""The server: one ASGI application over one workspace, and the process that runs it.

``app.create_app`` makes the application; ``python -m tunesmith.server --workspace DIR`` runs it.
"""

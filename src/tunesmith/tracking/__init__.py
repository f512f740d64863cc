"""MLflow beside the workspace: its server as a child process, and the mirror that shows jobs and models in it."""

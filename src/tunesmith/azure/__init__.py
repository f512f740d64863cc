"""Azure ML's wire protocol over the workspace's services."""

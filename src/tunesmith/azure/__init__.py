"""Azure ML's wire protocol on the workspace's services: management, data plane, blobs and ``/score``."""

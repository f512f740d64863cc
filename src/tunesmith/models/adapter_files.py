"""Names of files that belong to an adapter, and what says where a model came from: one place for those who write and
those who read them. Imports nothing."""

ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
"""PEFT's names."""
ADAPTER_FOLDER = "adapter"
"""Inside a training output or an MLflow model."""
LOCK_FILE = "run.lock"
"""Beside the adapter folder of a training output: exactly how it was made."""
TUNED = "tuned:"
"""How a package names the base that it was made from, among its origins."""

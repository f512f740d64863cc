"""The engines behind ``open_engine``: one module for each library."""

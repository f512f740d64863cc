"""Conversations: from files to token ids with the places that carry loss.

Only this room turns messages into ids; checking, preparation, training, evaluation and serving all call it. It needs
``tokenizers``, ``jinja2`` and ``pyarrow`` and knows nothing of models, training or servers.
"""

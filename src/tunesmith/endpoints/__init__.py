"""Online endpoints: wanted state (``service``), what makes it real (``controller``), the way of a request
(``gateway``).

An ``instance`` is a process of its own; only it imports torch.
"""

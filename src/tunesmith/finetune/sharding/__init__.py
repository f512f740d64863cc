"""Training with DeepSpeed's engine (ZeRO): its configuration, its engine, and the trainer over it.

``settings`` knows neither torch nor deepspeed; what imports them is loaded only by a run that uses them.
"""

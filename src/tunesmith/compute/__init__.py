"""The machine, the sizes that a compute may promise, and the named computes."""

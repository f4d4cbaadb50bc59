"""Several sources through one network, and the grid that shows them.

`crowd.py` runs them and is all that a program needs; `order.py` says which of their frames is shown
when, `layout.py`, `cell.py` and `grid.py` make one picture of all, and `loop.py` takes it and each
source's own frames to the sinks.
"""

"""What a run will need, counted before it starts: memory of each process, time of a step, size on disk.

Nothing is fitted. The product's own forward and backward run on tensors without memory (`trace.py`), for the packs that
the trainer will cut (`lengths.py`). Their bytes and operations are counted one by one.
"""

"""Checks of preference data: each finds one kind of defect in records, block by block, without a model's weights."""

"""Data shapes: one objective class each."""

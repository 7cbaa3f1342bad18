"""One objective class for each data shape."""

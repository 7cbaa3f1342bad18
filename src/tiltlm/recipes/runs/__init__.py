"""Look at runs that are there: list them, compare two of them, publish one."""

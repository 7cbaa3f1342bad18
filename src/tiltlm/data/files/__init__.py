"""Files: names become rows, one line of a file after another."""

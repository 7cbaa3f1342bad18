"""Commands and their settings: Python calls, YAML files, KEY=VALUE overrides. Importing it imports nothing heavy."""

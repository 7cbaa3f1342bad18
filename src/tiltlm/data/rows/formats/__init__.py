"""The forms in which tools write preference data: how each is recognised, read into our roles and written again."""

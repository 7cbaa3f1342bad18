"""Who sees which pair next, on which side each response stands, and what a vote does."""

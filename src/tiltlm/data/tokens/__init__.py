"""Turn records into examples of token ids."""

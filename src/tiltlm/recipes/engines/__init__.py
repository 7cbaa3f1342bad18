"""Servers that draw samples of the policy that is trained, with its weights of now."""

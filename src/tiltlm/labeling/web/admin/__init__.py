"""The pages of whoever runs a project, and of those who decide disputed pairs."""

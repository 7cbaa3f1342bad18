"""Parts of objectives beside rewards and links."""

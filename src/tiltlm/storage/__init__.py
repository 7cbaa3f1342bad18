"""Files and caches on disk: atomic writes, JSON Lines, locks, eviction, recorded versions."""

"""Models and adapters by their names on a hub: downloaded, found in the cache, removed from it."""

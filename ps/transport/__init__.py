"""Ways for a replica to reach the shards."""

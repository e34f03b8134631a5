"""The simulator: the replicas, links and shards of a job in virtual time."""

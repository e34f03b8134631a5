"""``hogshead reproduce``: each published claim as one named, seeded program with a threshold."""

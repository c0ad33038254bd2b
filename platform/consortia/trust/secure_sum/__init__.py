"""`trust = "aggregate"`: the coordinator sees the sum of a cohort; each participant adds a part of the noise."""

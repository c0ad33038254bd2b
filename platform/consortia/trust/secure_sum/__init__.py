"""`trust = "aggregate"`: the coordinator sees the sum of a cohort, and each participant adds its part of the noise."""

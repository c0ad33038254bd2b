"""What a participant checks before it joins: the way to the coordinator, and its own home. Names the broken link."""

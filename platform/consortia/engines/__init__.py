"""The engines that execute a run: in this process, in Flower's processes, or vectorised; also its options and its
record."""

"""Where a run happens: in this process, in Flower's processes, vectorised; its options and its record."""

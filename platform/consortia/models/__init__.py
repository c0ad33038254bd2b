"""A run's models made usable: kept by the participant, asked for predictions, exported, registered."""

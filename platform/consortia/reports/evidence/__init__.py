"""`consortia evidence`: writes what a board, a data protection officer or a regulator asks for after a run."""

"""Deployments: keys and certificates, compose files, join kits, the processes of a federation."""

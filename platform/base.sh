#!/bin/sh
# Prints what the images are built on: the digest that a tag has here or, where it is pulled, at its registry. An image of that
# name without a digest (made or loaded on this machine) stands for itself.
#   sh platform/base.sh IMAGE:TAG
set -eu
docker image inspect "$1" >/dev/null 2>&1 || docker pull --quiet "$1" >/dev/null 2>&1 || :
digest=$(docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$1" 2>/dev/null | grep -m 1 '@sha256:') || :
echo "${digest:-$1}"

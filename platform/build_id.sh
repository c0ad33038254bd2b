#!/bin/sh
# Prints twelve digits that follow from the content of the images alone: every file that they are made of, and the words
# given besides (base image, variant of PyTorch). On the host they are the images' tag; inside, consortia-build.json has them.
#   sh platform/build_id.sh FOLDER [WORD ...]
set -eu
cd "$1"
shift
tool="sha256sum"
command -v sha256sum >/dev/null || tool="shasum -a 256"
{
  printf '%s\n' "$@"
  find pyproject.toml constraints.txt README.md LICENSE platform strategies clients privacy scenarios wheels \
    -name __pycache__ -prune -o -type f ! -name '*.pyc' -print0 | LC_ALL=C sort -z | xargs -0 $tool
} | $tool | cut -c1-12

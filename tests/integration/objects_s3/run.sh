#!/bin/sh
# Proves the gateway on S3's protocol, against a server from the package index: run.sh [pytest options].
# The server wants other versions than requirements.lock, so it has an environment of its own.
set -eu
cd "$(dirname "$0")/../../.."
here=tests/integration/objects_s3
environment=.venv-s3
wanted=$(cat $here/requirements.txt $here/run.sh | cksum)
if [ "$(cat $environment/made-from 2>/dev/null)" != "$wanted" ]; then
  .venv/bin/python -m venv $environment
  $environment/bin/pip install --quiet --requirement $here/requirements.txt
  echo "$wanted" > $environment/made-from
fi
exec .venv/bin/python -m pytest $here "$@"

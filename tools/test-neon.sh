#!/bin/sh
# Build the NEON kernels with a cross compiler and test them under an emulator
# (Debian: g++-aarch64-linux-gnu qemu-user). $1: folder with ggml.h.
set -eu
cd "$(dirname "$0")/.."
include=${1:?usage: tools/test-neon.sh FOLDER-WITH-ggml.h}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
cxx=${CXX:-aarch64-linux-gnu-g++}
flags="-std=c++17 -O2 -ffp-contract=off -Wall -Wextra -Iggml_sparse/include -Iggml_sparse/src -I$include"
cpu=ggml_sparse/src/cpu
neon="-march=armv8.2-a+dotprod -DKERNEL_ISA=NEON -DKERNEL_TABLE=sparse_kernels_neon"
neon="$neon -DGROUP_TABLE=group_kernels_neon -DBATCH_TABLE=batch_kernels_generic"
generic="-march=armv8-a -DKERNEL_ISA=GENERIC -DKERNEL_TABLE=sparse_kernels_generic"
generic="$generic -DGROUP_TABLE=group_kernels_generic -DBATCH_TABLE=batch_kernels_generic"
# shellcheck disable=SC2086
{
    for source in kernels group-sum; do
        $cxx $flags $neon -c $cpu/$source.cpp -o "$out/$source-neon.o"
        $cxx $flags $generic -c $cpu/$source.cpp -o "$out/$source-generic.o"
    done
    $cxx $flags $generic -c $cpu/gemm.cpp -o "$out/gemm.o"
    $cxx $flags -DKERNEL_OTHER=sparse_kernels_neon ggml_sparse/tests/test-rows.cpp ggml_sparse/src/packing.cpp "$out"/*.o -static -o "$out/test-rows"
}
${EMULATOR:-qemu-aarch64} "$out/test-rows"

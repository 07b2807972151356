#!/usr/bin/env bash
# A real SLURM for tests: munge, one controller and one node with two cores, reachable from this
# machine only. All its files are in FOLDER; nothing of the system's own SLURM is used or changed.
#
#   tests/slurm/start.sh FOLDER COMMAND ...   runs a command with SLURM_CONF set, then stops
#   tests/slurm/start.sh FOLDER               prints "ready"; stops when its standard input ends
#
# It also stops after SLURM_SECONDS (default 3600). What it needs is installed with apt-get where
# this user may do that. Exit code 77: this machine cannot have a SLURM, the reason is one line on
# standard error; 78: it did not start, and the last lines of its logs are on standard error.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
folder=$(mkdir -p "$1" && cd "$1" && pwd)
shift
export PATH=$PATH:/usr/sbin:/sbin

cannot() { echo "no SLURM: $1" >&2; exit 77; }
missing=()
for program in munged:munge slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client; do
    command -v "${program%:*}" >/dev/null || missing+=("${program#*:}")
done
if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || cannot "${missing[*]} not installed, and no apt-get to do so"
    [ "$(id -u)" = 0 ] || cannot "${missing[*]} not installed (apt-get install ${missing[*]})"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
        --no-install-recommends "${missing[@]}"; } >"$folder/install.log" 2>&1 ||
        cannot "apt-get install ${missing[*]} failed: $(tail -n 1 "$folder/install.log")"
fi

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
name=$(hostname -s)
memory=$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
mkdir -p "$folder"/{bin,state,spool}
chmod 755 "$folder"
export SLURM_CONF=$folder/slurm.conf
# Snakemake removes SLURM_CONF inside a job, before it calls srun
printf '#!/bin/sh\nSLURM_CONF=%q exec %q "$@"\n' "$SLURM_CONF" "$(command -v srun)" >"$folder/bin/srun"
chmod +x "$folder/bin/srun"
export PATH=$folder/bin:$PATH
(umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
# proctrack and the memory limit without cgroups, which not every machine lets a test have;
# finished jobs stay visible to squeue for ten minutes, because there is no accounting database
cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$name(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CryptoType=crypto/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$folder/finished.txt
MailProg=/bin/true
MpiDefault=none
ReturnToService=2
MinJobAge=600
KillWait=5
SchedulerParameters=sched_interval=2,bf_interval=2
NodeName=$name NodeAddr=127.0.0.1 CPUs=2 Boards=1 Sockets=1 CoresPerSocket=2 ThreadsPerCore=1 RealMemory=$memory
PartitionName=short Nodes=$name Default=YES MaxTime=60 State=UP OverSubscribe=NO
CONF
: >"$folder/finished.txt"

exec 3<&0 # standard input, also for commands in the background

stop() {
    trap - EXIT
    scancel --user "$(id -un)" 2>/dev/null || true
    local pids=()
    for daemon in slurmd slurmctld munged; do # a test may have started a new one: its pid file
        if [ -s "$folder/$daemon.pid" ]; then
            pids+=("$(cat "$folder/$daemon.pid")")
            kill "${pids[-1]}" 2>/dev/null || true
        fi
    done
    for _ in $(seq 50); do
        kill -0 "${pids[@]}" 2>/dev/null || break
        sleep 0.2
    done
    [ ${#pids[@]} = 0 ] || kill -9 "${pids[@]}" 2>/dev/null || true # one waits for its last job
    [ -z "${watch:-}" ] || kill "$watch" 2>/dev/null || true
}
failed() {
    echo "SLURM did not start: $1" >&2
    tail -n 5 "$folder"/{munged,slurmctld,slurmd}.log >&2 2>/dev/null || true
    exit 78
}
trap stop EXIT
trap 'exit 143' TERM INT HUP

munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
    --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" \
    --seed-file="$folder/munge.seed" 2>"$folder/munged.err" ||
    failed "munged: $(tail -n 1 "$folder/munged.err")"
slurmctld -f "$SLURM_CONF" </dev/null >>"$folder/slurmctld.log" 2>&1 || failed slurmctld
slurmd -f "$SLURM_CONF" </dev/null >>"$folder/slurmd.log" 2>&1 || failed slurmd
for _ in $(seq 60); do
    [ "$(sinfo --noheader --format %T 2>/dev/null)" = idle ] && break
    sleep 0.5
done
[ "$(sinfo --noheader --format %T 2>/dev/null)" = idle ] || failed "the node is not idle"
main=$$
(sleep "${SLURM_SECONDS:-3600}" && kill "$main") </dev/null >/dev/null 2>&1 &
watch=$!

if [ $# -gt 0 ]; then
    "$@"
else
    echo ready
    cat <&3 >/dev/null & # bash hears a signal only while it waits
    wait $!
fi

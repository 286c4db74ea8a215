#!/usr/bin/env bash
# A container engine from Debian packages alone, for CI machines and tests that have neither an
# engine nor a registry.
#
#   engine.sh up      install, start and fill an engine; every step is skipped when already done
#   engine.sh env     print the exports that make `docker` use it:  eval "$(engine.sh env)"
#   engine.sh status  say what runs; exit 0 only when the engine answers and has the base image
#   engine.sh down    stop the dockerd that `up` started, and only that one; data stays on disk
#
# Theory of operation. An engine that answers already is used as it is. Otherwise docker.io is
# installed from the machine's own Debian archive and dockerd runs with its own data, socket and
# pid file below STATE_DIR. No image can be pulled, so the image that the Dockerfile's FROM names is
# made with debootstrap and imported under that very name: the Dockerfile stays what a user with a
# registry would run. Archive, proxy, certificates and pip index are those of this machine: no
# package host is named here.
#
# Environment (all optional):
#   VCOPROC_CI_STATE_DIR   data, socket, pid file, logs (default /var/lib/vcoproc-ci)
#   VCOPROC_CI_DOCKERFILE  the file whose FROM lines are served (default: the repository's)
#   VCOPROC_CI_MIRROR      Debian archive URI, on a machine whose own apt has none
set -euo pipefail

REPO_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
STATE_DIR=${VCOPROC_CI_STATE_DIR:-/var/lib/vcoproc-ci}
DOCKERFILE=${VCOPROC_CI_DOCKERFILE:-$REPO_DIR/Dockerfile}

RUN_DIR=$STATE_DIR/run
SOCKET=$RUN_DIR/docker.sock
PID_FILE=$RUN_DIR/dockerd.pid
EXEC_ROOT=$RUN_DIR/exec
LOG_FILE=$STATE_DIR/dockerd.log
DOCKERD_FLAGS_FILE=$RUN_DIR/dockerd.flags

# Read by docker for every user and every HOME, so that tests need DOCKER_HOST only.
PLUGIN_DIR=/usr/local/lib/docker/cli-plugins
# The first Debian release that packages compose v2 and buildx; each is one static binary, so it
# also runs on an older release.
PLUGIN_SUITE=trixie
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# Bounds. At each of them the script stops and says which one was reached.
INSTALL_S_MAX=600     # one apt-get or debootstrap run
READY_S_MAX=60        # dockerd start until its first answer; 2 to 8 s measured
STOP_S_MAX=40         # above dockerd's own 10 s for containers; then SIGKILL
ANSWER_S_MAX=10       # one question to an engine
LOCK_S_MAX=900        # wait for another `up` on this machine
STATE_PATH_CHARS_MAX=60  # a unix socket path is at most 107 bytes; containerd appends 40
DISK_FREE_KIB_MIN=$((2 * 1024 * 1024))  # 0.3 GiB base and plugins; the rest is for builds

say() { printf 'engine: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# ---------------------------------------------------------------- which engine

answers() {  # answers [HOST]: does an engine answer there (default: where docker looks by itself)?
    command -v docker >/dev/null || return 1
    if [ $# -gt 0 ]; then local -x DOCKER_HOST=$1; fi
    timeout "$ANSWER_S_MAX" docker version --format '{{.Server.Version}}' >/dev/null 2>&1
}

own_pid() {  # pid of the dockerd that `up` started, or failure; a recycled pid does not count
    local pid
    [ -s "$PID_FILE" ] || return 1
    pid=$(<"$PID_FILE")
    [[ $pid =~ ^[0-9]+$ ]] || return 1
    tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "--pidfile=$PID_FILE" || return 1
    printf '%s\n' "$pid"
}

select_engine() {  # export DOCKER_HOST for the rest of this script; fail when nothing answers
    if own_pid >/dev/null && answers "unix://$SOCKET"; then
        export DOCKER_HOST=unix://$SOCKET
        return 0
    fi
    answers || return 1
    # Ours or not decides about pulling, so the default is spelled out too.
    DOCKER_HOST=${DOCKER_HOST:-$(docker context inspect --format '{{.Endpoints.docker.Host}}')}
    export DOCKER_HOST
}

take_lock() {  # one `up` or `down` at a time on one state directory; released when the script ends
    [ ${#STATE_DIR} -le "$STATE_PATH_CHARS_MAX" ] ||
        die "VCOPROC_CI_STATE_DIR is longer than $STATE_PATH_CHARS_MAX characters"
    mkdir -p "$STATE_DIR" 2>/dev/null || die "cannot create $STATE_DIR"
    exec 9>"$STATE_DIR/lock"
    flock -w "$LOCK_S_MAX" 9 || die "another run has held $STATE_DIR/lock for $LOCK_S_MAX s"
}

# ---------------------------------------------------------------- this machine's packages

apt_bounded() {
    DEBIAN_FRONTEND=noninteractive timeout "$INSTALL_S_MAX" \
        apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" >>"$STATE_DIR/apt.log" 2>&1 ||
        die "apt-get $* failed: $(tail -n 3 "$STATE_DIR/apt.log" | tr '\n' ' ')"
}

install_packages() {  # install_packages COMMAND=PACKAGE...: those whose command is missing
    local pair missing=()
    for pair in "$@"; do
        [ -e "${pair%%=*}" ] || command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || die "must be root to install ${missing[*]}"
    command -v apt-get >/dev/null || die "no apt-get here; install by hand: ${missing[*]}"
    say "installing ${missing[*]}"
    apt_bounded update
    apt_bounded install --no-install-recommends "${missing[@]}"
}

archive_uri() {  # archive_uri main|security: the Debian archive that this machine's apt uses
    local codename uri suite
    if [ "$1" = main ] && [ -n "${VCOPROC_CI_MIRROR:-}" ]; then
        printf '%s\n' "$VCOPROC_CI_MIRROR"
        return 0
    fi
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
    # indextargets reads both source formats (one-line and deb822) and expands what apt would.
    # shellcheck disable=SC2016  # apt expands the fields, not the shell
    while read -r uri suite; do
        [[ $uri == http* && ${uri%/} == *debian* ]] || continue
        case $1:$suite in
            "main:$codename" | main:stable | main:testing | main:unstable | main:sid | \
                security:*-security)
                printf '%s\n' "${uri%/}"
                return 0
                ;;
        esac
    done < <(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages')
    return 1
}

fetch_plugins() {  # compose v2 and buildx for the docker client, from PLUGIN_SUITE
    local mirror work packages=() binary
    docker compose version >/dev/null 2>&1 || packages+=(docker-compose)
    docker buildx version >/dev/null 2>&1 || packages+=(docker-buildx)
    [ ${#packages[@]} -gt 0 ] || return 0
    mirror=$(archive_uri main) || die "apt has no Debian archive here: set VCOPROC_CI_MIRROR"
    say "fetching ${packages[*]} of $PLUGIN_SUITE"
    work=$STATE_DIR/plugins
    rm -rf "$work"
    mkdir -p "$work"/{state/lists/partial,cache/archives/partial,parts,debs,root} "$PLUGIN_DIR"
    : >"$work/status"
    printf 'deb [signed-by=%s] %s %s main\n' "$KEYRING" "$mirror" "$PLUGIN_SUITE" \
        >"$work/sources.list"
    # Lists and status of its own: the machine's package database never sees the other release.
    local options=(-o "Dir::State=$work/state" -o "Dir::State::status=$work/status"
        -o "Dir::Cache=$work/cache" -o "Dir::Etc::sourcelist=$work/sources.list"
        -o "Dir::Etc::sourceparts=$work/parts" -o APT::Sandbox::User=root
        -o Acquire::Languages=none)
    apt_bounded "${options[@]}" update
    (cd "$work/debs" && apt_bounded "${options[@]}" download "${packages[@]}")
    for binary in "$work"/debs/*.deb; do dpkg -x "$binary" "$work/root"; done
    find "$work/root" -path '*/cli-plugins/*' -type f \
        -exec install -m 0755 -t "$PLUGIN_DIR" {} +
    rm -rf "$work"
    docker compose version >/dev/null 2>&1 || die "docker compose does not run after the install"
    docker buildx version >/dev/null 2>&1 || die "docker buildx does not run after the install"
}

# ---------------------------------------------------------------- dockerd

ensure_cgroups() {  # a bare container or init-less machine may have none mounted
    if grep -qE ' cgroup2? ' /proc/self/mounts; then return 0; fi
    say "no cgroup hierarchy is mounted; mounting cgroup2"
    mkdir -p /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup || die "cannot mount cgroup2: containers need cgroups"
}

prefer_working_iptables() {  # Debian's default is the nft back end; some kernels have legacy only
    local shim=$RUN_DIR/shim name
    rm -rf "$shim"
    if iptables -t nat -S >/dev/null 2>&1; then return 0; fi
    if ! iptables-legacy -t nat -S >/dev/null 2>&1; then return 0; fi
    say "iptables (nft) does not work with this kernel; dockerd gets iptables-legacy"
    mkdir -p "$shim"
    for name in iptables ip6tables; do
        ln -s "$(command -v "$name-legacy")" "$shim/$name"
    done
    export PATH=$shim:$PATH
}

launch_dockerd() {  # launch_dockerd FLAG...: one try; fail when it died or did not answer in time
    local pid deadline_s
    # A session of its own, so that a Ctrl-C or the end of a CI step does not take it down.
    # Descriptor 9 is the lock of `up` and must not outlive it.
    setsid dockerd --host="unix://$SOCKET" --pidfile="$PID_FILE" --data-root="$STATE_DIR/data" \
        --exec-root="$EXEC_ROOT" --log-opt max-size=8m --log-opt max-file=2 \
        --shutdown-timeout=10 "$@" \
        >"$LOG_FILE" 2>&1 </dev/null 9>&- &
    pid=$!
    deadline_s=$((SECONDS + READY_S_MAX))
    while [ "$SECONDS" -lt "$deadline_s" ]; do
        if answers "unix://$SOCKET"; then
            printf '%s\n' "$*" >"$DOCKERD_FLAGS_FILE"
            return 0
        fi
        is_running "$pid" || return 1
        sleep 0.1
    done
    say "dockerd did not answer within $READY_S_MAX s"
    stop_dockerd "$pid"
    return 1
}

start_dockerd() {
    local free_kib pid
    [ "$(id -u)" = 0 ] || die "must be root to start dockerd"
    free_kib=$(df --output=avail -k "$STATE_DIR" | tail -n 1)
    [ "$free_kib" -ge "$DISK_FREE_KIB_MIN" ] ||
        die "$STATE_DIR has $free_kib KiB free, needs $DISK_FREE_KIB_MIN"
    ensure_cgroups
    if pid=$(own_pid); then
        say "dockerd $pid runs but does not answer; restarting it"
        stop_dockerd "$pid"
    fi
    clean_remains
    mkdir -p "$RUN_DIR"
    # dockerd refuses to start when the pid in a stale file belongs to any process at all.
    rm -f "$PID_FILE" "$SOCKET"
    prefer_working_iptables
    say "starting dockerd (data in $STATE_DIR/data)"
    if launch_dockerd; then return 0; fi
    if network_failed; then
        say "trying without iptables: no published ports, perhaps no service names; the" \
            "outside only through 'network_mode: host' and 'build: {network: host}'"
        if launch_dockerd --iptables=false --ip6tables=false; then return 0; fi
    fi
    if network_failed; then
        say "trying without a bridge as well: containers need 'network_mode: host' or 'none'"
        if launch_dockerd --iptables=false --ip6tables=false --bridge=none; then return 0; fi
    fi
    die "dockerd does not start: $(tail -n 3 "$LOG_FILE")"
}

network_failed() {  # did the last try end at the networks? Nothing else gets better with less of it
    local last
    last=$(tail -n 5 "$LOG_FILE" | grep -F 'network controller') || return 1
    say "that failed: $last"
}

is_running() {  # is_running PID; a zombie is not
    [[ -n $(tr -d '\0' 2>/dev/null <"/proc/$1/cmdline") ]]
}

stop_dockerd() {  # stop_dockerd PID: TERM, bounded wait, KILL
    local deadline_s=$((SECONDS + STOP_S_MAX))
    kill -TERM "$1" 2>/dev/null || return 0
    while is_running "$1"; do
        if [ "$SECONDS" -ge "$deadline_s" ]; then
            say "dockerd $1 did not stop within $STOP_S_MAX s; killing it"
            kill -KILL "$1" 2>/dev/null || true
            break
        fi
        sleep 0.1
    done
}

clean_remains() {  # containerd, shims and mounts of a dockerd of ours that is gone
    local entry pid
    for entry in /proc/[0-9]*; do
        pid=${entry#/proc/}
        # Both carry paths below EXEC_ROOT as arguments; no other process does.
        if [[ $(tr '\0' ' ' 2>/dev/null <"$entry/cmdline" || true) == *containerd*"$EXEC_ROOT/"* ]]
        then
            # A shim's child is a container's first process: the kernel ends the others with it.
            # shellcheck disable=SC2046  # a list of pids
            kill -KILL $(pgrep -P "$pid") "$pid" 2>/dev/null || true
        fi
    done
    unmount_below "$STATE_DIR"
    # dockerd waits in vain for the containerd of a stale pid file when that pid is in use again.
    rm -rf --one-file-system "$EXEC_ROOT"
}

unmount_below() {  # unmount_below DIR: what is mounted on or under it, innermost first
    local target
    while read -r target; do
        umount -l "$target" 2>/dev/null || true
    done < <(awk -v dir="$1" '$5 == dir || index($5, dir "/") == 1 { print $5 }' \
        /proc/self/mountinfo | sort -r)
}

# shellcheck source=deploy/ci/base_image.sh
. "$REPO_DIR/deploy/ci/base_image.sh"

# ---------------------------------------------------------------- subcommands

cmd_up() {
    local started_s=$SECONDS
    [ -f "$DOCKERFILE" ] || die "$DOCKERFILE does not exist: its FROM line names the base image"
    take_lock
    if ! select_engine; then
        install_packages dockerd=docker.io iptables=iptables "$KEYRING=debian-archive-keyring"
        # Since trixie the client is a package of its own.
        install_packages docker=docker-cli
        # Where an init system runs, the package has just started an engine.
        select_engine || { start_dockerd && select_engine; } || die "no engine answers"
    fi
    fetch_plugins
    ensure_base
    say "ready after $((SECONDS - started_s)) s; use it with: eval \"\$($0 env)\""
}

cmd_env() {
    if own_pid >/dev/null; then printf 'export DOCKER_HOST=unix://%s\n' "$SOCKET"; fi
}

cmd_status() {
    local image rc=0
    select_engine || { say "no engine answers"; return 1; }
    local facts='engine {{.ServerVersion}}, storage {{.Driver}}, cgroups v{{.CgroupVersion}}'
    facts+=', {{.ContainersRunning}} containers, {{.Images}} images, kernel {{.KernelVersion}}'
    docker info --format "$facts, at $DOCKER_HOST"
    if [ -s "$DOCKERD_FLAGS_FILE" ] && grep -q . "$DOCKERD_FLAGS_FILE"; then
        printf 'reduced: dockerd runs with %s\n' "$(<"$DOCKERD_FLAGS_FILE")"
    fi
    docker compose version || rc=1
    docker buildx version || rc=1
    if [ -f "$DOCKERFILE" ]; then
        for image in $(from_images); do
            docker image inspect --format "base $image: {{.Id}}, {{.Size}} bytes" "$image" || rc=1
        done
    fi
    if [ -d "$STATE_DIR" ]; then
        printf 'disk: %s KiB in %s\n' "$(du -skx "$STATE_DIR" | cut -f1)" "$STATE_DIR"
    fi
    return "$rc"
}

cmd_down() {
    local pid
    take_lock
    if pid=$(own_pid); then
        say "stopping dockerd $pid"
        stop_dockerd "$pid"
    else
        say "no dockerd of ours runs"
    fi
    clean_remains
    rm -f "$PID_FILE" "$SOCKET" "$DOCKERD_FLAGS_FILE"
}

case ${1:-} in
    up | env | status | down) "cmd_$1" ;;
    *) sed -n '5,8s/^# *//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac

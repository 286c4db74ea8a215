# The base image of engine.sh, made from this machine's Debian archive. Sourced by engine.sh, whose
# variables and helpers it uses; not a program of its own.
# shellcheck shell=bash disable=SC2153  # STATE_DIR, SOCKET, KEYRING, DOCKERFILE: engine.sh

BASE_PACKAGES=python3,python3-venv,python3-pip,ca-certificates
# Second name of a base image made here; its tag is <suite>-<recipe>. Not a label: images built on
# the base would inherit that.
BASE_REPOSITORY=vcoproc-ci-base
BASE_WORK_DIR=$STATE_DIR/base
CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt
SMOKE_S_MAX=60                            # one container that does nothing; 0.5 s measured
TMPFS_ROOT_MEM_KIB_MIN=$((3 * 1024 * 1024))  # below this the image is built on disk

from_images() {  # images that the Dockerfile's FROM lines name, once each, its own stages left out
    awk '
        toupper($1) == "ARG" && split($2, pair, "=") == 2 {
            gsub(/"/, "", pair[2]); value[pair[1]] = pair[2]
        }
        toupper($1) == "FROM" {
            field = 2
            while ($field ~ /^--/) field++
            image = $field
            for (name in value) {
                gsub("\\$\\{" name "(:-[^}]*)?\\}", value[name], image)
                gsub("\\$" name "$", value[name], image)
            }
            if (!(image in stage) && image != "scratch" && !(image in seen)) print image
            seen[image] = 1
            if (toupper($(field + 1)) == "AS") stage[$(field + 2)] = 1
        }' "$DOCKERFILE"
}

suite_of() {  # debian:trixie, debian:trixie-slim, debian:trixie-20250520-slim -> trixie
    [[ $1 =~ ^(docker\.io/library/|docker\.io/|library/)?debian:([a-z]+)(-[0-9]+)?(-slim)?$ ]] ||
        die "$DOCKERFILE starts from '$1'; only debian:<suite> or debian:<suite>-slim can be made"
    printf '%s\n' "${BASH_REMATCH[2]}"
}

recipe_id() {  # changes when the content of a base image would
    {
        declare -f debootstrap_root configure_root import_root
        printf '%s\n' "$BASE_PACKAGES"
        cat "$CA_BUNDLE"
        machine_apt_conf
        machine_pip_conf
        archive_uri main
        archive_uri security || true
    } | sha256sum | cut -c1-12
}

machine_apt_conf() {  # how this machine's apt reaches its archive; entries with a password stay out
    apt-config dump |
        grep -E '^Acquire::(https?|Retries|ForceIPv|Check-Date|Check-Valid-Until)' |
        grep -vE '//[^/"]*@' || true
    local proxy=${http_proxy:-${HTTP_PROXY:-}}
    if [[ -n $proxy && $proxy != *@* ]]; then printf 'Acquire::http::Proxy "%s";\n' "$proxy"; fi
}

machine_pip_conf() {  # how this machine's pip reaches its index; host paths make no sense inside
    local proxy=${https_proxy:-${HTTPS_PROXY:-}}
    printf '[global]\ncert = %s\ndisable-pip-version-check = true\n' "$CA_BUNDLE"
    # Lines read  global.index-url='...'  or, from the environment,  :env:.index-url='...'
    python3 -m pip config list 2>/dev/null |
        sed -nE "s/^(global|:env:)\.(index-url|extra-index-url|trusted-host)='(.*)'$/\2 = \3/p" |
        grep -vE 'file:|//[^/ ]*@' || true
    if [[ -n $proxy && $proxy != *@* ]]; then printf 'proxy = %s\n' "$proxy"; fi
}

debootstrap_root() {  # debootstrap_root SUITE ROOT
    local suite=$1 root=$2 script=() mirror
    mirror=$(archive_uri main) || die "apt has no Debian archive here: set VCOPROC_CI_MIRROR"
    # An older debootstrap does not know newer suites by name; they are all made like sid.
    [ -e "/usr/share/debootstrap/scripts/$suite" ] || script=(/usr/share/debootstrap/scripts/sid)
    timeout "$INSTALL_S_MAX" debootstrap --variant=minbase --keyring="$KEYRING" \
        --include="$BASE_PACKAGES" "$suite" "$root" "$mirror" "${script[@]}" \
        >"$STATE_DIR/debootstrap.log" 2>&1 ||
        die "debootstrap failed: $(tail -n 3 "$STATE_DIR/debootstrap.log" | tr '\n' ' ')"
}

configure_root() {  # configure_root SUITE ROOT: reach packages the way this machine does
    local suite=$1 root=$2 security
    : >"$root/etc/apt/sources.list"
    {
        printf 'Types: deb\nURIs: %s\nSuites: %s %s-updates\n' "$(archive_uri main)" \
            "$suite" "$suite"
        printf 'Components: main\nSigned-By: %s\n' "$KEYRING"
        if security=$(archive_uri security); then
            printf '\nTypes: deb\nURIs: %s\nSuites: %s-security\n' "$security" "$suite"
            printf 'Components: main\nSigned-By: %s\n' "$KEYRING"
        fi
    } >"$root/etc/apt/sources.list.d/debian.sources"
    machine_apt_conf >"$root/etc/apt/apt.conf.d/90machine"
    machine_pip_conf >"$root/etc/pip.conf"
    # As in the registry's slim images, also for what a Dockerfile installs later.
    printf 'path-exclude /usr/share/%s/*\n' doc man info locale \
        >"$root/etc/dpkg/dpkg.cfg.d/90slim"
    # The certificates twice: as sources, which survive a later update-ca-certificates, and as the
    # finished bundle, which also holds what this machine got by other ways.
    find /usr/local/share/ca-certificates -name '*.crt' \
        -exec install -m 0644 -t "$root/usr/local/share/ca-certificates" {} + 2>/dev/null || true
    chroot "$root" update-ca-certificates >/dev/null 2>&1
    install -m 0644 "$CA_BUNDLE" "$root$CA_BUNDLE"
}

import_root() {  # import_root ROOT NAME: without what a base image does not need
    tar -C "$1" --numeric-owner --one-file-system -c \
        --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' \
        --exclude='./var/log/*.log' --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' \
        --exclude='./usr/share/info/*' --exclude='./usr/share/locale/*' \
        --exclude='./debootstrap' --exclude='./proc/*' --exclude='./sys/*' --exclude='./dev/*' . |
        docker import -c "ENV PIP_CERT=$CA_BUNDLE" -c "ENV SSL_CERT_FILE=$CA_BUNDLE" \
            -c 'CMD ["bash"]' - "$2" >/dev/null
}

discard_base_work() {
    unmount_below "$BASE_WORK_DIR"
    rm -rf --one-file-system "$BASE_WORK_DIR"
}

build_base() {  # build_base SUITE NAME
    local suite=$1 name=$2 mem_kib
    install_packages debootstrap=debootstrap "$KEYRING=debian-archive-keyring"
    say "building a $suite base image with debootstrap (once; about a minute)"
    trap discard_base_work EXIT
    discard_base_work
    mkdir -p "$BASE_WORK_DIR"
    mem_kib=$(awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo)
    if [ "$mem_kib" -ge "$TMPFS_ROOT_MEM_KIB_MIN" ]; then
        # dpkg calls fsync for every file: in memory this costs nothing.
        mount -t tmpfs -o size=1g,mode=755 tmpfs "$BASE_WORK_DIR" || say "no tmpfs; using the disk"
    fi
    debootstrap_root "$suite" "$BASE_WORK_DIR/root"
    configure_root "$suite" "$BASE_WORK_DIR/root"
    import_root "$BASE_WORK_DIR/root" "$name"
    discard_base_work
}

ensure_base() {  # every image of the Dockerfile exists in the engine
    local image images suite name old recipe
    images=$(from_images)
    [ -n "$images" ] || die "$DOCKERFILE has no FROM line"
    recipe=$(recipe_id)
    for image in $images; do
        if [ "$DOCKER_HOST" != "unix://$SOCKET" ] && ! docker image inspect "$image" &>/dev/null
        then
            # Not our engine: a real image under that name is better than ours.
            timeout "$INSTALL_S_MAX" docker pull -q "$image" &>/dev/null || true
        fi
        if is_foreign "$image"; then continue; fi
        suite=$(suite_of "$image")
        name=$BASE_REPOSITORY:$suite-$recipe
        if ! docker image inspect "$name" &>/dev/null; then
            build_base "$suite" "$name"
            smoke_test "$name"
        fi
        docker tag "$name" "$image"
        for old in $(docker image ls --format '{{.Repository}}:{{.Tag}}' "$BASE_REPOSITORY"); do
            if [[ $old == "$BASE_REPOSITORY:$suite-"* && $old != "$name" ]]; then
                docker image rm "$old" >/dev/null || true
            fi
        done
    done
}

is_foreign() {  # is_foreign IMAGE: it exists and was not made here
    local tags
    tags=$(docker image inspect --format '{{join .RepoTags " "}}' "$1" 2>/dev/null) || return 1
    [[ $tags != *"$BASE_REPOSITORY:"* ]]
}

smoke_test() {  # smoke_test IMAGE: a container runs, and says on which networks it can
    timeout "$SMOKE_S_MAX" docker run --rm --network none "$1" true ||
        die "no container runs: see $LOG_FILE"
    if ! timeout "$SMOKE_S_MAX" docker run --rm "$1" true; then
        say "bridge networks do not work here: use 'network_mode: host'"
    fi
}

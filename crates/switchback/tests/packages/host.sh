# A Debian host's life with the packages, as docs/guides/install.md tells it: bash, -eu, as a service of the systemd that it asks. Packages of
# versions 0.1.0 and 0.2.0 are at /mnt; disk2 becomes the retention drive, disk3 the process server's cache disk, disk4 is tracked.

state=/var/lib/switchback
roles="configuration-server process-server master-target agent"
packages="switchback-bin switchback switchback-agent"

step() { echo "STEP at $(cut -d' ' -f1 /proc/uptime) s: $*"; }

fail() {
    trap - ERR
    echo "FAILED: $*"
    tail -n 20 /run/lab/log || true
    journalctl --no-pager --output=cat --lines=30 || true
    systemctl --no-pager --full --lines=5 status 'switchback-*' || true
    exit 1
}
set -E
trap 'fail "line $LINENO: $BASH_COMMAND"' ERR

# same WHAT FOUND WANTED
same() { [ "$2" = "$3" ] || fail "$1: \`$2\`, not \`$3\`"; }

# within SECONDS COMMAND…: until it succeeds.
within() {
    local limit=$(($1 + SECONDS))
    shift
    until "$@" >>/run/lab/log 2>&1; do
        [ "$SECONDS" -lt "$limit" ] || fail "not in time: $*"
        sleep 0.5
    done
}

# Words of systemd about the units: about ROLE PROPERTIES
about() { systemctl show --property "$2" --value "switchback-$1.service" | tr '\n' ' '; }
process() { systemctl show --property MainPID --value "switchback-$1.service"; }

packages() { dpkg --force-unsafe-io "$@" >>/run/lab/log 2>&1; }
installs() { packages --install /mnt/switchback*_"$1"_*.deb; }

# Every role but those named runs.
all_run() {
    local role
    for role in $roles; do
        [[ " $* " = *" $role "* ]] || same "$role" "$(about "$role" ActiveState,SubState)" "active running "
    done
}

# The configuration server answers, and has heard from that many components since TIME: heard COUNT TIME
heard() {
    switchback server list --output json >/run/lab/servers &&
        [ "$(awk -v "time=$2" -F '"' '$2 == "lastReport" && $4 >= time' /run/lab/servers | wc -l)" = "$1" ]
}
now() { date --utc +%Y-%m-%dT%H:%M:%S; }

# What the kernel holds a role to. Capabilities: linux/capability.h; mount and user: `own` namespaces, or the `host`'s.
held_to() {
    local process kind
    process=/proc/$(process "$1")
    awk '/^(Uid|CapEff|CapBnd|NoNewPrivs|Seccomp):/ { printf "%s%s ", $1, $2 }' "$process/status"
    for kind in mnt user; do
        [ "$(readlink "$process/ns/$kind")" = "$(readlink "/proc/self/ns/$kind")" ] && echo -n "$kind:host " || echo -n "$kind:own "
    done
    # The options with which it sees the root file system: first ro or rw.
    awk '$5 == "/" { print "root:" substr($6, 1, 2) }' "$process/mountinfo"
}

# Runs the program under all that the unit of a role holds it to, as `as-ROLE`: as ROLE ARGUMENTS…
as() {
    local role=$1 units=/run/systemd/system
    shift
    sed "/^AssertPath/d; s|^ExecStart=.*|ExecStart=/usr/bin/switchback $*|; s|^Restart=.*|Restart=no|" \
        "/lib/systemd/system/switchback-$role.service" >"$units/as-$role.service"
    systemctl daemon-reload
    systemctl start "as-$role"
}

step installation
echo "127.0.0.1 cs.example" >>/etc/hosts
hostname home
installs 0.1.0
for role in $roles; do
    same "$role before it has settings" "$(about "$role" ActiveState,UnitFileState)" "inactive disabled "
done
directories="$state/configuration-server $state/process-server $state/master-target"
# shellcheck disable=SC2086
same directories "$(stat --format '%U %a' $directories | tr '\n' ' ')" "switchback-cs 700 switchback-ps 700 root 700 "

step configuration server
echo ADVERTISE=cs.example >>/etc/switchback/configuration-server.conf
systemctl enable --quiet --now switchback-configuration-server
within 180 switchback profile add prod --server https://cs.example \
    --ca-file $state/configuration-server/ca.pem --token-file $state/configuration-server/admin-token
switchback passphrase >/run/lab/passphrase
chmod 644 /run/lab/passphrase

step process server
mkfs.ext4 -q /dev/disk/by-id/virtio-disk3
echo "/dev/disk/by-id/virtio-disk3 $state/process-server/spool ext4 defaults 0 2" >>/etc/fstab
mkdir -p $state/process-server/spool
systemctl daemon-reload
mount $state/process-server/spool
chown switchback-ps: $state/process-server/spool
printf 'SERVER=cs.example:443\nSITE=home\n' >>/etc/switchback/process-server.conf
runuser -u switchback-ps -- switchback enrol cs.example:443 --role process-server \
    --identity $state/process-server/identity --name ps1 --passphrase-file /run/lab/passphrase
systemctl enable --quiet --now switchback-process-server

step master target
switchback master-target prepare --yes --retention-device /dev/disk/by-id/virtio-disk2 --retention $state/retention
# Beside the process server, on another port than its.
printf 'SERVER=cs.example:443\nSITE=recovery\nOPTIONS=--listen 0.0.0.0:9444\n' >>/etc/switchback/master-target.conf
switchback enrol cs.example:443 --role target --identity $state/master-target/identity --name mt1 --passphrase-file /run/lab/passphrase
systemctl enable --quiet --now switchback-master-target

step agent
echo SERVER=cs.example:443 >>/etc/switchback/agent.conf
switchback enrol cs.example:443 --identity $state/agent/identity --name web01 --passphrase-file /run/lab/passphrase
systemctl enable --quiet --now switchback-agent

step hardening
within 180 heard 3 "$(now)"
all_run
for role in $roles; do
    same "automatic restarts of $role" "$(about "$role" NRestarts)" "0 "
done
servers=$(id -u switchback-cs) spools=$(id -u switchback-ps)
same "configuration server" "$(held_to configuration-server)" \
    "Uid:$servers CapEff:0000000000000400 CapBnd:0000000000000400 NoNewPrivs:1 Seccomp:2 mnt:own user:host root:ro"
same "process server" "$(held_to process-server)" \
    "Uid:$spools CapEff:0000000000000000 CapBnd:0000000000000000 NoNewPrivs:1 Seccomp:2 mnt:own user:own root:ro"
same "master target" "$(held_to master-target)" \
    "Uid:0 CapEff:0000000000200000 CapBnd:0000000000200000 NoNewPrivs:1 Seccomp:2 mnt:host user:host root:rw"
same agent "$(held_to agent)" \
    "Uid:0 CapEff:000000c0296410ff CapBnd:000000c0296410ff NoNewPrivs:0 Seccomp:2 mnt:host user:host root:rw"
same "checks of the master target that failed" \
    "$(switchback master-target check --retention $state/retention --port 9444 | grep -c '^failed' || true)" 0

step views of recovery points
head --bytes=4M /dev/urandom >/srv/source
switchback sync /srv/source /srv/target >>/run/lab/log 2>&1
mkdir /srv/view
as master-target replica export --point 1 /srv/target.switchback/local /srv/view
# They are seen from here, the host.
within 180 cmp /srv/source /srv/view/disk-0.raw
systemctl stop as-master-target
same "views after their end" "$(findmnt /srv/view || true)" ""

step tracking and freezes
mkfs.ext4 -q /dev/disk/by-id/virtio-disk4
mkdir /srv/tracked
mount /dev/disk/by-id/virtio-disk4 /srv/tracked
# An emulated guest may take long to freeze.
as agent sync /dev/disk/by-id/virtio-disk4 /srv/follow --follow --json --capture ebpf --interval 0.2 --points 3 --freeze-budget 60000
ended() { [ "$(systemctl show --property ActiveState --value as-agent)" != active ]; }
within 180 ended
same "how it ended" "$(systemctl show --property Result --value as-agent)" success
points=$(journalctl --output=cat --unit=as-agent | grep '"event":"point"')
same points "$(grep -c '"consistency":"crash-consistent"' <<<"$points" || true)" 3
same "points without a comparison" "$(grep -c '"compared_bytes":0[,}]' <<<"$points" || true)" 2
umount /srv/tracked

step killed
for role in $roles; do
    kill -9 "$(process "$role")"
done
restarted() { [ "$(about "$1" NRestarts)" = "1 " ]; }
for role in $roles; do
    within 180 restarted "$role"
done
killed=$(now)
within 180 heard 3 "$killed"
all_run

step upgrade
# What does not run is not started.
systemctl stop switchback-process-server
declare -A old
for role in $roles; do
    old[$role]=$(process "$role")
done
installs 0.2.0
all_run process-server
for role in configuration-server master-target agent; do
    [ "$(process "$role")" != "${old[$role]}" ] || fail "$role was not restarted"
    same "the program of $role" "$(readlink "/proc/$(process "$role")/exe")" /usr/bin/switchback
done
same "the process server, which did not run" "$(about process-server ActiveState)" "inactive "
systemctl start switchback-process-server
# They know each other still, with their settings.
upgraded=$(now)
within 180 heard 3 "$upgraded"
all_run
same "lines with colours in the journal" "$(journalctl --output=cat --unit='switchback-*' | grep -c $'\033' || true)" 0

step removal
data="configuration-server/store.db configuration-server/ca.pem configuration-server/admin-token process-server/identity
    process-server/spool master-target/identity retention agent/identity"
there() { (cd $state && ls -d $data); }
before=$(there)
# As an agent that protects pins it.
mkdir -p /sys/fs/bpf/switchback/agent/pinned
packages --remove $packages
for role in $roles; do
    same "$role, removed" "$(about "$role" LoadState,ActiveState)" "not-found inactive "
done
same "processes left" "$(find /proc/[0-9]*/exe -lname '/usr/bin/switchback*' 2>/dev/null | wc -l)" 0
same "data after a removal" "$(there)" "$before"
grep -q ^SERVER=cs.example:443 /etc/switchback/agent.conf
test -d /sys/fs/bpf/switchback/agent

step purge
packages --purge $packages
same "data after a purge" "$(there)" "$before"
test ! -e /etc/switchback
test ! -e /sys/fs/bpf/switchback/agent
same "units that are enabled still" "$(find /etc/systemd/system -name 'switchback-*' | wc -l)" 0
same "packages that dpkg knows" "$(dpkg-query --show 'switchback*' 2>/dev/null | wc -l)" 0
step end

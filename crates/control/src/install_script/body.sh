# Makes this host a process server of Switchback. It may be run again.
set -eu
umask 077
root=${SWITCHBACK_INSTALL_ROOT:-}
bin=$root/usr/local/bin
etc=$root/etc/switchback
state=$root/var/lib/switchback
unit=$root/etc/systemd/system/switchback-process-server.service
new=$bin/.switchback.new
secret_file=$root/run/switchback-enrol
doing='starting'

say() {
    printf 'switchback: %s\n' "$1" >&2
    # The serial console is what the site can show.
    { printf 'switchback: %s\n' "$1" >"$root/dev/console"; } 2>/dev/null || true
}
ended() {
    code=$?
    rm -f "$secret_file" "$new"
    [ "$code" -eq 0 ] || say "installation failed while $doing"
}
trap ended EXIT

# Others than root come by here, whatever was there before.
(umask 022 && mkdir -p "$bin" "$etc" "$root/run" "${state%/*}")
mkdir -p "$state"
chmod 755 "$bin" "$etc"
printf '%s\n' "$authority" >"$etc/ca.pem"
chmod 644 "$etc/ca.pem"

doing='looking for curl'
if ! command -v curl >/dev/null 2>&1; then
    DEBIAN_FRONTEND=noninteractive apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y install curl
fi

doing="fetching the program from $url (is the configuration server reachable from here?)"
sum() { sha256sum "$1" | cut -d ' ' -f 1; }
if [ ! -f "$bin/switchback" ] || [ "$(sum "$bin/switchback")" != "$digest" ]; then
    curl --fail --silent --show-error --proto '=https' --cacert "$etc/ca.pem" \
        --connect-timeout 20 --max-time 900 --max-filesize 1073741824 \
        --retry 30 --retry-delay 5 --retry-connrefused --output "$new" -- "$url"
    doing='comparing the digest of the program: it is not the one that was announced'
    [ "$(sum "$new")" = "$digest" ]
    chmod 755 "$new"
    mv -f "$new" "$bin/switchback"
fi

doing="enrolling at $server (is the time of one hour over, or the name taken?)"
if [ ! -s "$state/identity/credentials.pem" ]; then
    # printf is part of the shell: no process has the secret among its arguments.
    printf '%s\n' "$secret" >"$secret_file"
    "$bin/switchback" enrol --identity "$state/identity" --name "$name" --role process-server \
        --passphrase-file "$secret_file" -- "$server" >&2
    rm -f "$secret_file"
fi
secret=

doing='starting the process server'
if [ -d "$root/run/systemd/system" ]; then
    mkdir -p "${unit%/*}"
    cat >"$unit" <<UNIT
[Unit]
Description=Switchback process server
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=$command
Restart=on-failure
RestartSec=5
DynamicUser=yes
StateDirectory=switchback
StateDirectoryMode=0700
CapabilityBoundingSet=$capability
AmbientCapabilities=$capability
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
ProtectClock=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
PrivateDevices=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service

[Install]
WantedBy=multi-user.target
UNIT
    chmod 644 "$unit"
    systemctl daemon-reload
    systemctl enable --now switchback-process-server.service
else
    "$bin/switchback" process-server --identity "$state/identity" --server "$server" --site "$site" \
        --data "$state/spool" --listen "0.0.0.0:$port" --advertise "$advertise" \
        >"$state/process-server.log" 2>&1 </dev/null &
fi
say "the process server $name is installed"

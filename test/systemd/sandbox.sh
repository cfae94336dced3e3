#!/usr/bin/env bash
# A real systemd as PID 1 of its own pid, mount, cgroup, ipc and uts namespaces, on a throw-away overlay of /.
#   sandbox.sh up DIR CODE | exec DIR COMMAND… | down DIR          (root; needs systemd and util-linux, nothing else)
# CODE appears as /opt/leasehold (read-only), DIR/share as /srv/share; the user `leasehold` exists; units of the machine are
# gone. The network is the machine's own, so that a PostgreSQL on loopback can be reached. Nothing of it outlives `down`.
# /proc/sys is read-only inside: a systemd that could write there would set the whole machine's.
set -euo pipefail
operation=$1
export D
D=$(readlink -f "$2")
shift 2

up() {
  export CODE
  CODE=$(readlink -f "$1")
  local root cgroup
  root=$(awk '$(NF-2) == "cgroup2" { print $5; exit }' /proc/self/mountinfo)
  [ -n "$root" ] || { echo "no cgroup2 is mounted on this machine" >&2; exit 1; }
  cgroup=$root/leasehold-test-$$
  mkdir -p "$D"/{share,root,overlay}
  mkdir "$cgroup"
  echo "$cgroup" >"$D/cgroup"
  (
    echo $BASHPID >"$cgroup/cgroup.procs"
    exec unshare --cgroup --mount --pid --uts --ipc --fork --kill-child --propagation private /bin/bash -ec "$(declare -f inside); inside"
  ) </dev/null >"$D/boot.log" 2>&1 &
  local starter=$! pid
  # Most often within one second; a busy machine may need many.
  for _ in $(seq 1200); do
    sleep .05
    kill -0 $starter 2>/dev/null || break
    pid=$(pgrep -P $starter | head -1 || true)
    if [ -n "$pid" ] && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = systemd ]; then
      echo "$pid" >"$D/pid"
      [[ $("$0" exec "$D" systemctl is-system-running 2>/dev/null) =~ ^(running|degraded)$ ]] && exit 0
    fi
  done
  echo "systemd did not come up within 60 s" >&2
  cat "$D/boot.log" >&2
  exit 1
}

inside() {
  local R=$D/root n u
  mount -t tmpfs tmpfs "$D/overlay"
  mkdir "$D/overlay/upper" "$D/overlay/work"
  mount -t overlay overlay -o "lowerdir=/,upperdir=$D/overlay/upper,workdir=$D/overlay/work" "$R"
  mount -t proc proc "$R/proc"
  mount --bind "$R/proc/sys" "$R/proc/sys"
  mount -o remount,bind,ro "$R/proc/sys"
  for n in run tmp var/log var/tmp; do mount -t tmpfs tmpfs "$R/$n"; done
  chmod 1777 "$R/tmp" "$R/var/tmp"
  mount -t tmpfs tmpfs "$R/dev" -o mode=755
  for n in null zero full random urandom tty; do
    touch "$R/dev/$n"
    mount --bind "/dev/$n" "$R/dev/$n"
  done
  ln -s /proc/self/fd "$R/dev/fd"
  ln -s fd/0 "$R/dev/stdin"
  ln -s fd/1 "$R/dev/stdout"
  ln -s fd/2 "$R/dev/stderr"
  mkdir "$R/dev/pts" "$R/dev/shm"
  mount -t devpts devpts "$R/dev/pts" -o newinstance,ptmxmode=0666,mode=620
  ln -s pts/ptmx "$R/dev/ptmx"
  mount -t tmpfs tmpfs "$R/dev/shm"
  mount -t sysfs sysfs "$R/sys" -o ro
  mount -t cgroup2 cgroup2 "$R/sys/fs/cgroup"
  mkdir -p "$R/srv/share" "$R/opt/leasehold"
  mount --bind "$D/share" "$R/srv/share"
  mount --bind "$CODE" "$R/opt/leasehold"
  mount -o remount,bind,ro "$R/opt/leasehold"
  rm -rf "$R"/etc/systemd/system/*
  for u in systemd-remount-fs systemd-sysctl systemd-modules-load systemd-update-utmp systemd-timesyncd systemd-binfmt systemd-udevd systemd-networkd-wait-online; do
    ln -sf /dev/null "$R/etc/systemd/system/$u.service"
  done
  grep -q '^leasehold:' "$R/etc/passwd" || echo 'leasehold:x:993:993::/nonexistent:/usr/sbin/nologin' >>"$R/etc/passwd"
  grep -q '^leasehold:' "$R/etc/group" || echo 'leasehold:x:993:' >>"$R/etc/group"
  hostname sandbox
  cd "$R"
  mkdir -p .old
  pivot_root . .old
  umount -l /.old
  rmdir /.old
  mount --make-rshared /
  exec env -i container=sandbox PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=basic.target --show-status=0
}

down() {
  local pid cgroup
  if pid=$(cat "$D/pid" 2>/dev/null); then
    kill -s 37 "$pid" 2>/dev/null || true # SIGRTMIN+3: halt
    for _ in $(seq 100); do
      [ -d "/proc/$pid" ] || break
      sleep .1
    done
    kill -9 "$pid" 2>/dev/null || true
  fi
  cgroup=$(cat "$D/cgroup" 2>/dev/null) || return 0
  for _ in 1 2 3 4 5; do
    find "$cgroup" -depth -type d -exec rmdir {} \; 2>/dev/null || true
    [ -d "$cgroup" ] || break
    sleep .1
  done
  rm -f "$D/pid" "$D/cgroup"
}

case $operation in
  up) up "$@" ;;
  exec) exec nsenter -t "$(cat "$D/pid")" -m -p -u -i -C "$@" ;;
  down) down ;;
  *) echo "unknown operation: $operation" >&2; exit 2 ;;
esac

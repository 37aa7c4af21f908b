#!/bin/sh
# `sudo make install` and `sudo make uninstall`: sparkd from this checkout, in a venv of its own, kept by systemd.
#
#   /opt/sparkd             the venv; removed and made anew at each install
#   /etc/sparkd             the config: made once, never touched again
#   /etc/systemd/system     the units
#   /etc/udev/rules.d       who may use the devices
#   /usr/local/bin          sparkd and sparkctl
#
# DESTDIR installs beneath another root, and then starts and makes nothing there but files. PYTHON is the interpreter,
# EXTRAS what is installed besides the core, PIP_ARGS goes to pip.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
dest=${DESTDIR:-}
prefix=/opt/sparkd
python=${PYTHON:-python3}
extras=${EXTRAS:-all}
units=$dest/etc/systemd/system

say() { printf 'sparkd: %s\n' "$*"; }
die() { printf 'sparkd: %s\n' "$*" >&2; exit 1; }
live() { [ -z "$dest" ] && [ -d /run/systemd/system ]; }

make_venv() { # beside the one in use, so that a failed download changes nothing
  fresh=$dest$prefix.new
  rm -rf "$fresh"
  "$python" -m venv "$fresh" || die "$python -m venv failed; try: apt install python3-venv"
  # shellcheck disable=SC2086 # several arguments
  "$fresh/bin/python" -m pip -q install --disable-pip-version-check ${PIP_ARGS:-} "$here${extras:+[$extras]}"
  # A venv knows its own path in the first line of each script; from now on it lives in $prefix.
  for script in "$fresh"/bin/*; do
    if [ -f "$script" ] && [ ! -L "$script" ] && head -c 2 "$script" | grep -q '#!'; then
      sed -i "1s|^#!.*/bin/python[0-9.]*|#!$prefix/bin/python|" "$script"
    fi
  done
  sed -i "s|$fresh|$prefix|g" "$fresh/pyvenv.cfg"
  mkdir -p "$fresh/share/etc"
  cp -R "$here/etc/." "$fresh/share/etc/"
  chmod -R go=u-w "$fresh"
}

swap_venv() {
  old=$dest$prefix.old
  rm -rf "$old"
  if [ -e "$dest$prefix" ]; then mv "$dest$prefix" "$old"; fi
  mv "$dest$prefix.new" "$dest$prefix"
  rm -rf "$old"
}

install_files() {
  mkdir -p "$units" "$dest/etc/sysusers.d" "$dest/etc/tmpfiles.d" "$dest/etc/udev/rules.d" "$dest/usr/local/bin"
  for unit in "$here"/systemd/*.service "$here"/systemd/*.socket; do
    if [ -e "$unit" ]; then install -m 0644 "$unit" "$units/"; fi
  done
  for kind in sysusers tmpfiles; do
    for file in "$here/systemd"/*."$kind"; do
      if [ -e "$file" ]; then install -m 0644 "$file" "$dest/etc/$kind.d/$(basename "$file" ".$kind").conf"; fi
    done
  done
  for file in "$here"/etc/udev/*.rules; do install -m 0644 "$file" "$dest/etc/udev/rules.d/"; done
  for name in sparkd sparkctl; do ln -sf "$prefix/bin/$name" "$dest/usr/local/bin/$name"; done
  mkdir -p "$dest/etc/sparkd/sparkd.d" "$dest/etc/sparkd/plugins"
  chmod 0755 "$dest/etc/sparkd" "$dest/etc/sparkd/sparkd.d" "$dest/etc/sparkd/plugins"
  if [ ! -e "$dest/etc/sparkd/sparkd.toml" ]; then install -m 0644 "$here/etc/sparkd.toml" "$dest/etc/sparkd/sparkd.toml"; fi
}

start() {
  systemd-sysusers /etc/sysusers.d/sparkd*.conf
  for file in /etc/tmpfiles.d/sparkd*.conf; do
    if [ -e "$file" ]; then systemd-tmpfiles --create "$file"; fi
  done
  if command -v udevadm >/dev/null; then udevadm control --reload 2>/dev/null || true; fi # for what is plugged in next
  live || { say "installed; systemd does not run here, so nothing was started"; return; }
  systemctl daemon-reload
  if systemctl -q is-active sparkd.service; then
    systemctl restart sparkd.service || say "the new version did not start: journalctl -u sparkd"
    say "upgraded and restarted; sparkctl status"
  else
    say "installed. Next: sparkctl init; systemctl enable --now sparkd"
  fi
}

case "${1:-}" in
  install)
    [ -n "$dest" ] || [ "$(id -u)" = 0 ] || die "only root can install; try: sudo make install"
    make_venv
    swap_venv
    install_files
    if [ -z "$dest" ]; then start; fi
    ;;
  uninstall)
    [ -n "$dest" ] || [ "$(id -u)" = 0 ] || die "only root can uninstall; try: sudo make uninstall"
    if live; then systemctl stop 'sparkd@*.service'; fi
    for unit in "$here"/systemd/*.service "$here"/systemd/*.socket; do
      name=$(basename "$unit")
      if live; then systemctl -q disable --now "$name" 2>/dev/null || true; fi
      rm -f "$units/$name"
    done
    rm -f "$dest"/etc/sysusers.d/sparkd*.conf "$dest"/etc/tmpfiles.d/sparkd*.conf
    for file in "$here"/etc/udev/*.rules; do rm -f "$dest/etc/udev/rules.d/$(basename "$file")"; done
    for name in sparkd sparkctl; do rm -f "$dest/usr/local/bin/$name"; done
    rm -rf "$dest$prefix" "$dest$prefix.new" "$dest$prefix.old"
    if live; then systemctl daemon-reload; fi
    say "removed. Kept: /etc/sparkd (config), /var/lib/sparkd (keys, records), the account sparkd"
    ;;
  *) die "usage: $0 install|uninstall" ;;
esac

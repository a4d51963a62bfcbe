# SPDX-License-Identifier: Apache-2.0
# Sourced by deploy/quickstart/run and tests/run: installs the Debian packages that are missing.

LB_PACKAGES_BUILD="gcc libc6-dev cmake ninja-build pkg-config libjansson-dev libssl-dev
  libcurl4-openssl-dev libmicrohttpd-dev libsqlite3-dev libpcre2-dev libutf8proc-dev"
LB_PACKAGES_TEST="git libcmocka-dev clang llvm libclang-rt-14-dev curl procps"

# lb_install PACKAGE...: installs those of them that are not there.
lb_install() {
  local missing=() package as_root=()
  for package in "$@"; do
    if ! dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed'; then
      missing+=("$package")
    fi
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "These packages are needed; install them as root: ${missing[*]}" >&2; return 1; }
    as_root=(sudo)
  fi
  echo "Installing ${missing[*]}"
  # The package lists of a fresh machine are empty or old; an update that fails may still do.
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq update || true
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "${missing[@]}" >/dev/null
}

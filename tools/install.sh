#!/bin/sh
# Installs what the tests use beyond Python, pinned, into FOLDER/bin. Needs no root and touches
# nothing outside of FOLDER, except for Chromium, which only root can install. Does nothing where
# the pinned version is there.
#
#   sh tools/install.sh FOLDER
set -eu

[ $# -eq 1 ] || { echo "usage: sh tools/install.sh FOLDER" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1/bin" "$1/installed"
folder=$(cd "$1" && pwd)
missing=""

have() { command -v "$1" >/dev/null 2>&1; }
# Whether a program is there in its pinned version. The program may have gone while its mark stayed.
present() { [ -x "$folder/bin/$1" ] && [ -e "$folder/installed/$1-$2" ]; }
mark() { rm -f "$folder/installed/$1"-*; : >"$folder/installed/$1-$2"; echo "    $1 $2"; }
lacks() { missing="$missing
  $1: $2"; }

# go_program NAME VERSION PACKAGE
go_program() {
  present "$1" "$2" && return
  have go || { lacks "$1" "needs Go 1.24 or newer on PATH"; return; }
  echo "... building $1"
  built=$(mktemp -d "$folder/build.XXXXXX")
  if GOBIN="$built" go install -trimpath -ldflags '-s -w' "$3@v$2"; then
    mv "$built"/* "$folder/bin/$1" && mark "$1" "$2"
  else
    lacks "$1" "its build failed, see above"
  fi
  rm -rf "$built"
}

# A module of its own: 'go install' refuses Jaeger because of a replace line in its go.mod.
jaeger() {
  present jaeger "$1" && return
  have go || { lacks jaeger "needs Go 1.26 or newer on PATH"; return; }
  echo "... building jaeger, which takes some minutes"
  if (cd "$here/jaeger" && go build -trimpath -ldflags '-s -w' -o "$folder/bin/jaeger" \
    github.com/jaegertracing/jaeger/cmd/jaeger); then
    mark jaeger "$1"
  else
    lacks jaeger "its build failed, see above"
  fi
}

# debian_program NAME VERSION PACKAGE [LIBRARY-PACKAGE ...]: taken out of the packages, not installed.
debian_program() {
  name=$1 version=$2 package=$3
  shift 3
  present "$name" "$version" && return
  have apt-get && have dpkg || { lacks "$name" "needs Debian's package $package"; return; }
  echo "... fetching $name"
  root="$folder/debian/$name"
  rm -rf "$root" && mkdir -p "$root"
  if (cd "$root" && apt-get download -qq "$package=$version*" "$@" \
    && for file in ./*.deb; do dpkg -x "$file" . && rm "$file"; done); then
    {
      echo '#!/bin/sh'
      echo "LD_LIBRARY_PATH='$root/usr/lib/$(uname -m)-linux-gnu' exec '$root/usr/bin/$name' \"\$@\""
    } >"$folder/bin/$name"
    chmod +x "$folder/bin/$name" && mark "$name" "$version"
  else
    lacks "$name" "apt-get could not download $package $version; as root, 'apt-get update' may help"
  fi
}

# Follows the distribution's security updates, so it has no pin; installed with what it needs.
chromium() {
  have chromium && return
  if have apt-get && [ "$(id -u)" = 0 ]; then
    echo "... installing chromium"
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium \
      >/dev/null 2>"$folder/chromium.log" && return
  fi
  echo "note: no chromium; as root on Debian, 'apt-get install chromium'"
}

# Package lists are not there in a fresh container.
if have apt-get && [ "$(id -u)" = 0 ] && [ -z "$(apt-cache policy prometheus 2>/dev/null)" ]; then
  apt-get update -qq || echo "note: apt-get update failed"
fi

go_program grpcurl 1.9.4 github.com/fullstorydev/grpcurl/cmd/grpcurl
go_program ghz 0.93.0 github.com/bojand/ghz/cmd/ghz
go_program grpc_health_probe 0.4.61 github.com/grpc-ecosystem/grpc-health-probe
jaeger 1.76.0
debian_program promtool 2.42.0 prometheus
debian_program h2load 1.52.0 nghttp2-client libnghttp2-14 libev4 libc-ares2 libjansson4
chromium

if [ -n "$missing" ]; then
  echo "not installed:$missing" >&2
  exit 1
fi

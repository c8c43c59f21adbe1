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
log="$folder/install.log"
missing=""
: >"$log"

have() { command -v "$1" >/dev/null 2>&1; }
# Whether a program is there in its pinned version. The program may have gone while its mark stayed.
present() { [ -x "$folder/bin/$1" ] && [ -e "$folder/installed/$1-$2" ]; }
mark() { rm -f "$folder/installed/$1"-*; : >"$folder/installed/$1-$2"; echo "    $1 $2"; }
lacks() { missing="$missing
  $1: $2"; }
failed() { lacks "$1" "$2; the end of $log says why"; }

# go_program NAME VERSION PACKAGE
go_program() {
  present "$1" "$2" && return
  have go || { lacks "$1" "needs Go 1.24 or newer on PATH"; return; }
  echo "... building $1"
  built=$(mktemp -d "$folder/build.XXXXXX")
  if GOBIN="$built" go install -trimpath -ldflags '-s -w' "$3@v$2" 2>>"$log"; then
    mv "$built"/* "$folder/bin/$1" && mark "$1" "$2"
  else
    failed "$1" "its build failed"
  fi
  rm -rf "$built"
}

# A module of its own: 'go install' refuses Jaeger because of a replace line in its go.mod.
build_jaeger() {
  present jaeger "$1" && return
  have go || { lacks jaeger "needs Go 1.26 or newer on PATH"; return; }
  echo "... building jaeger, which takes some minutes"
  if (cd "$here/jaeger" && go build -trimpath -ldflags '-s -w' -o "$folder/bin/jaeger" \
    github.com/jaegertracing/jaeger/cmd/jaeger) 2>>"$log"; then
    mark jaeger "$1"
  else
    failed jaeger "its build failed"
  fi
}

# Package lists are not there in a fresh container; only root can fetch them.
package_lists() {
  [ -z "$(apt-cache policy "$1" 2>>"$log")" ] && [ "$(id -u)" = 0 ] || return 0
  apt-get update -qq 2>>"$log" || echo "note: 'apt-get update' failed"
}

# debian_program NAME VERSION PACKAGE [LIBRARY-PACKAGE ...]: taken out of the packages, not installed.
debian_program() {
  name=$1 version=$2 package=$3
  shift 3
  present "$name" "$version" && return
  have apt-get && have dpkg || { lacks "$name" "needs Debian's package $package"; return; }
  echo "... fetching $name"
  package_lists "$package"
  root="$folder/debian/$name"
  rm -rf "$root" && mkdir -p "$root"
  if (cd "$root" && apt-get download -qq "$package=$version*" "$@" \
    && for file in ./*.deb; do dpkg -x "$file" . && rm "$file"; done \
    && find . -type f ! -name "$name" ! -name '*.so*' -delete) 2>>"$log"; then
    {
      echo '#!/bin/sh'
      echo "LD_LIBRARY_PATH='$root/usr/lib/$(uname -m)-linux-gnu' exec '$root/usr/bin/$name' \"\$@\""
    } >"$folder/bin/$name"
    chmod +x "$folder/bin/$name" && mark "$name" "$version"
  else
    failed "$name" "no package $package $version could be downloaded"
  fi
}

# Follows the distribution's security updates, so it has no pin; installed with what it needs.
install_chromium() {
  have chromium && return
  if have apt-get && [ "$(id -u)" = 0 ]; then
    echo "... installing chromium"
    package_lists chromium
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium \
      >>"$log" 2>&1 && return
  fi
  echo "note: no chromium; as root on Debian, 'apt-get install chromium'"
}

go_program grpcurl 1.9.4 github.com/fullstorydev/grpcurl/cmd/grpcurl
go_program ghz 0.93.0 github.com/bojand/ghz/cmd/ghz
go_program grpc_health_probe 0.4.61 github.com/grpc-ecosystem/grpc-health-probe
build_jaeger 1.76.0
debian_program promtool 2.42.0 prometheus
debian_program h2load 1.52.0 nghttp2-client libnghttp2-14 libev4 libc-ares2 libjansson4 libjemalloc2
install_chromium

if [ -n "$missing" ]; then
  echo "not installed:$missing" >&2
  exit 1
fi

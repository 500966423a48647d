#!/usr/bin/env bash
# Build a free-threaded CPython 3.13 from Debian's source package, once, and print
# the path of its interpreter. The result is kept outside the checkout; a second
# call returns at once.
#
#   .ci/free_threaded_python.sh          as others build it
#   .ci/free_threaded_python.sh thread   by clang with ThreadSanitizer, and no module
#                                        that the threaded tests can do without
#
# The suite that carries python3.13 need not be the one this machine runs, so a
# private package index is made from the address and the keyring that the machine's
# own apt sources name. Nothing of the machine's apt configuration is changed.
set -euo pipefail

suite=trixie
cache=${FASTBATCH_CI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/fastbatch}
needs="dpkg-dev xz-utils make gcc zlib1g-dev libffi-dev"
if [ "${1:-}" = thread ]; then
    name=python3.13t-tsan
    modules='ctypes, zlib'
    needs+=" clang llvm"
    configuration=(--with-thread-sanitizer --disable-test-modules CC=clang
        OPT='-DNDEBUG -O2 -gline-tables-only')
    # Nothing is to be precompiled, at 10 times the time that others take.
    installation=(COMPILEALL_OPTS=-l)
    # What Python does while it is built is not what is tested.
    export TSAN_OPTIONS='report_bugs=0'
else
    name=python3.13t
    modules='ssl, sqlite3, ctypes, zlib, bz2, lzma'
    needs+=" libssl-dev libsqlite3-dev libbz2-dev liblzma-dev"
    configuration=()
    installation=()
fi
prefix=$cache/$name
python=$prefix/bin/python3.13t

if [ -x "$python" ] && "$python" -c "import $modules" 2>/dev/null; then
    echo "$python"
    exit 0
fi

mkdir -p "$cache"
exec 9>"$cache/$name.lock"
flock 9

work=$(mktemp -d "$cache/build.XXXXXX")
log=$cache/$name.log
finish() {
    status=$?
    rm -rf "$work"
    if [ "$status" -ne 0 ]; then
        echo "free-threaded CPython could not be built; the end of $log:" >&2
        tail -n 20 "$log" >&2
    fi
    exit "$status"
}
trap finish EXIT
exec 3>&1 >"$log" 2>&1

apt-get update
# shellcheck disable=SC2086 # one word a package
DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $needs

# The Debian archive that the machine already trusts: its address, and the keyring
# that the same sources entry names.
read -r uri entry < <(apt-get indextargets --format '$(REPO_URI) $(SOURCESENTRY)' \
    'Created-By: Packages' 'Component: main' 'Label: Debian' | head -n 1)
keyring=$(grep -ohiE -m 1 'signed-by[:=] *[^] ]+' "${entry%:*}" | sed -E 's/^[^:=]*[:=] *//' || true)
mkdir -p "$work"/{lists/partial,archives/partial,source}
echo "deb-src ${keyring:+[signed-by=$keyring]} $uri $suite main" >"$work/sources.list"
apt_private() {
    apt-get -o "Dir::Etc::sourcelist=$work/sources.list" -o "Dir::Etc::sourceparts=-" \
        -o "Dir::State::lists=$work/lists" -o "Dir::Cache::archives=$work/archives" \
        -o "Dir::Cache::pkgcache=" -o "Dir::Cache::srcpkgcache=" \
        -o "APT::Sandbox::User=root" "$@"
}

cd "$work"
apt_private update
apt_private source --download-only python3.13
tar -xf python3.13_*.orig.tar.[gx]z -C source --strip-components=1
cd source
./configure --disable-gil --prefix="$prefix" --with-ensurepip=install \
    "${configuration[@]}"
make -j"$(nproc)"
make install "${installation[@]}"
"$python" -c "import $modules"
echo "$python" >&3

#!/usr/bin/env bash
# Installs what the tests run beside the program, without root, into .cache/tools/bin:
#   staticcheck, node_exporter  built from their modules; with --vuln only govulncheck
#   prometheus, promtool        from Debian's package, or else those on PATH
#   prometheus-pushgateway      likewise
#   redis-server                from Debian's packages, with the libraries that it needs
#   python-prometheus-client    runs python3 where prometheus_client of Debian's package can be imported
# What is there in the right version stays. Everything that cannot be had is an error: a test that cannot run is one
# that failed.
set -euo pipefail

staticcheck_version=v0.8.2
node_exporter_version=v1.12.1
govulncheck_version=v1.8.0

root=$(cd "$(dirname "$0")/.." && pwd)
tools=$root/.cache/tools
bin=$tools/bin
mkdir -p "$bin"

say() { printf 'tools: %s\n' "$*" >&2; }

# go_tool NAME MODULE VERSION builds a command unless the one there is of that version and of this Go.
go_tool() {
	local name=$1 package=$2 version=$3 stamp
	stamp="$version $(go env GOVERSION)"
	if [[ -x $bin/$name && $(cat "$tools/$name.version" 2>/dev/null) == "$stamp" ]]; then
		return
	fi
	say "building $name $version"
	(cd / && GOBIN=$bin GOFLAGS= go install "$package@$version")
	echo "$stamp" >"$tools/$name.version"
}

# debian PACKAGE FROM TO unpacks Debian's package and takes the file or directory FROM of it. The package lists are this
# directory's own if the system has none.
debian() {
	local package=$1 from=$2 to=$3 work
	command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
	say "unpacking Debian's $package"
	work=$(mktemp -d "$tools/$package.XXXXXX")
	(
		cd "$work"
		if ! apt-get -q download "$package"; then
			mkdir -p state/lists/partial cache/archives/partial
			own=(-o "Dir::State::lists=$work/state/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=)
			apt-get -q "${own[@]}" update && apt-get -q "${own[@]}" download "$package"
		fi
	) >&2 && dpkg-deb -x "$work/${package}"_*.deb "$work/root" &&
		mv "$work/root/$from" "$to"
	local status=$?
	rm -rf "$work"
	return $status
}

# program NAME [PACKAGE] installs a program of a Debian package, the one of its name if no other is given.
program() {
	local name=$1 package=${2-$1} found
	if [[ -x $bin/$name ]] || debian "$package" "usr/bin/$name" "$bin/$name"; then
		return
	fi
	if found=$(command -v "$name"); then
		say "that failed; using $found"
		ln -sf "$found" "$bin/$name"
		return
	fi
	say "there is no $name: neither Debian's package nor one on PATH"
	return 1
}

python_client() {
	local library=$tools/python script=$bin/python-prometheus-client
	if [[ ! -d $library/prometheus_client ]]; then
		mkdir -p "$library"
		debian python3-prometheus-client usr/lib/python3/dist-packages/prometheus_client "$library/prometheus_client"
	fi
	printf '#!/bin/sh\nPYTHONPATH=%q exec python3 "$@"\n' "$library" >"$script"
	chmod +x "$script"
}

redis_server() {
	local library=$tools/redis script=$bin/redis-server lib found
	lib=usr/lib/$(uname -m)-linux-gnu
	mkdir -p "$library"
	if [[ -x $library/redis-server ]] || {
		debian liblzf1 "$lib/liblzf.so.1.5" "$library/liblzf.so.1" &&
			debian libjemalloc2 "$lib/libjemalloc.so.2" "$library/libjemalloc.so.2" &&
			debian redis-tools usr/bin/redis-check-rdb "$library/redis-server" # does what its name says
	}; then
		printf '#!/bin/sh\nLD_LIBRARY_PATH=%q exec %q "$@"\n' "$library" "$library/redis-server" >"$script"
		chmod +x "$script"
	elif found=$(PATH=${PATH//$bin:/} command -v redis-server); then
		say "that failed; using $found"
		ln -sf "$found" "$script"
	else
		say "there is no redis-server: neither Debian's package nor one on PATH"
		return 1
	fi
}

# runs NAME... fails unless the programs do.
runs() {
	local tool
	for tool in "$@"; do
		"$bin/$tool" --version >/dev/null 2>&1 || {
			say "$bin/$tool does not run"
			return 1
		}
	done
}

if [[ ${1-} == --vuln ]]; then
	go_tool govulncheck golang.org/x/vuln/cmd/govulncheck "$govulncheck_version"
	exit
fi
go_tool staticcheck honnef.co/go/tools/cmd/staticcheck "$staticcheck_version"
program prometheus-pushgateway
program prometheus
program promtool prometheus
redis_server
python_client
"$bin/python-prometheus-client" -c 'import prometheus_client' || {
	say "python3 with prometheus_client does not run"
	exit 1
}
runs prometheus-pushgateway prometheus promtool redis-server
if [[ ${1-} == --check ]]; then # all that the fast checks need
	exit 0
fi
go_tool node_exporter github.com/prometheus/node_exporter "$node_exporter_version"
runs node_exporter

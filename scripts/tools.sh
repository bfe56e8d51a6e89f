#!/usr/bin/env bash
# Installs what the tests run beside the program, without root, into .cache/tools/bin:
#   staticcheck, node_exporter  built from their modules; with --vuln only govulncheck
#   prometheus                  from Debian's package, or else the one on PATH
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

# debian_prometheus unpacks Debian's package. The package lists are this directory's own if the system has none.
debian_prometheus() {
	command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
	local work
	work=$(mktemp -d "$tools/prometheus.XXXXXX")
	(
		cd "$work"
		if ! apt-get -q download prometheus; then
			mkdir -p state/lists/partial cache/archives/partial
			own=(-o "Dir::State::lists=$work/state/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=)
			apt-get -q "${own[@]}" update && apt-get -q "${own[@]}" download prometheus
		fi
	) >&2 && dpkg-deb -x "$work"/prometheus_*.deb "$work/root" &&
		mv "$work/root/usr/bin/prometheus" "$bin/prometheus"
	local status=$?
	rm -rf "$work"
	return $status
}

prometheus() {
	if [[ -x $bin/prometheus ]]; then
		return
	fi
	say "unpacking Debian's prometheus"
	if debian_prometheus; then
		return
	fi
	local found
	if found=$(command -v prometheus); then
		say "that failed; using $found"
		ln -sf "$found" "$bin/prometheus"
		return
	fi
	say "there is no prometheus: neither Debian's package nor one on PATH"
	return 1
}

if [[ ${1-} == --vuln ]]; then
	go_tool govulncheck golang.org/x/vuln/cmd/govulncheck "$govulncheck_version"
	exit
fi
go_tool staticcheck honnef.co/go/tools/cmd/staticcheck "$staticcheck_version"
if [[ ${1-} == --check ]]; then # all that the fast checks need
	exit 0
fi
go_tool node_exporter github.com/prometheus/node_exporter "$node_exporter_version"
prometheus
for tool in prometheus node_exporter; do
	"$bin/$tool" --version >/dev/null || {
		say "$bin/$tool does not run"
		exit 1
	}
done

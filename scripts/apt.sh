# SPDX-License-Identifier: GPL-2.0-only
# apt with a configuration of its own, in $BUILD/apt, for what the system's suites
# don't have.
# shellcheck shell=bash

apt=$BUILD/apt

private_apt()
{
	APT_CONFIG=$apt/apt.conf "$@"
}

# setup_apt TYPE SUITES: packages, with the type deb, or sources, with deb-src.
setup_apt()
{
	local me=${0##*/} mirror=${DEBIAN_MIRROR:-} keyring=/usr/share/keyrings/debian-archive-keyring.gpg suite
	command -v apt-get >/dev/null || { say "  $me: not from Debian: there is no apt-get"; return 1; }
	[ -f "$keyring" ] || { say "  $me: not from Debian: install debian-archive-keyring"; return 1; }
	# The format is apt's: nothing in it is for the shell.
	# shellcheck disable=SC2016
	[ -n "$mirror" ] || mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' |
		awk '/debian/ && !/security/ && !found++ { print $1 }')
	[ -n "$mirror" ] || { say "  $me: not from Debian: apt knows no Debian mirror; set DEBIAN_MIRROR to one"; return 1; }
	[ "$1" = deb ] || apt=$BUILD/apt-src
	mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/sources"
	: >"$apt/status"
	for suite in $2; do
		echo "$1 [signed-by=$keyring] $mirror $suite main" >"$apt/sources/$suite.list"
	done
	cat >"$apt/apt.conf" <<-EOF
	Dir::Etc::SourceList "/dev/null";
	Dir::Etc::SourceParts "$apt/sources";
	Dir::State::Lists "$apt/lists";
	Dir::State::status "$apt/status";
	Dir::Cache "$apt/cache";
	APT::Architecture "amd64";
	APT::Architectures "amd64";
	APT::Sandbox::User "root";
	Acquire::Languages "none";
	Acquire::Retries "3";
	#clear APT::Update::Post-Invoke;
	#clear APT::Update::Post-Invoke-Success;
	EOF
}

# A suite that is missing does not spoil the others.
update_lists() { private_apt apt-get update || true; }

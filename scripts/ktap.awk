# SPDX-License-Identifier: GPL-2.0-only
# Turn what a guest wrote to its results port (selftests/init.c) into the subtests
# of one KTAP test: a subtest for each KUnit suite and each kselftest program.
# "n" is the number of the first one.

function result(line,    rest)
{
	# "ok 1 selftests: balloon: inflate # exit=1"
	rest = line
	sub(/^(not )?ok [0-9]+ (- )?/, "", rest)
	if (sub(/^selftests: /, "selftests/", rest))
		sub(/: /, "/", rest)
	print "    " (line ~ /^not / ? "not " : "") "ok " n++ " " rest
}

/^lab: (kunit|run) /	{ mode = "kunit"; next }
/^lab: kselftest$/	{ mode = "kselftest"; next }
/^lab: /		{ mode = ""; next }
!mode			{ next }
/^(not )?ok [0-9]+/	{ result($0); next }

# KUnit, and what "lab.run" runs: each suite comes with headers of its own, then one level deeper.
mode == "kunit" && /^(KTAP version|1\.\.)/	{ next }
mode == "kunit"					{ print "    " $0; next }

# kselftest's runner puts "# " before what a program says.
mode == "kselftest" && /^# /	{ print "        " substr($0, 3) }
